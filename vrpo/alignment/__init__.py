"""What is asked of the hidden tokens: nothing, a static alignment (REPA, iREPA, HASTE), or VRPO's rewards. Knows no process."""
