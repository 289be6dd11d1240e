// Figures enlarge in a dialog: Enter or a click opens it, Escape, Close or a click beside it closes.
const large = document.getElementById("large");
for (const button of document.querySelectorAll("button.picture"))
  button.addEventListener("click", () => {
    large.querySelector(".picture").replaceChildren(button.querySelector("img").cloneNode());
    large.showModal();
  });
large.addEventListener("click", (event) => { if (event.target === large) large.close(); });
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
