"""What is asked of the hidden tokens: nothing, REPA's static cosine, or VRPO's rewards. Knows no process."""
