// A square to draw in, with a finger, a pen or a mouse. Its value is the drawing as a PNG, while one draws.
const canvas = element.querySelector("canvas"), brush = canvas.getContext("2d");
let last = null, waiting = false;

function tell() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    props.value = canvas.toDataURL();
    trigger("input");
  });
}

function clear() {
  brush.fillStyle = "white";
  brush.fillRect(0, 0, canvas.width, canvas.height);
}

function place(event) {
  const box = canvas.getBoundingClientRect(), scale = canvas.width / box.width;
  return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
}

function stroke(event) {
  const next = place(event);
  Object.assign(brush, { lineWidth: canvas.width / 12, lineCap: "round", strokeStyle: "black" });
  brush.beginPath();
  brush.moveTo(...last);
  brush.lineTo(...next);
  brush.stroke();
  last = next;
  tell();
}

clear();
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  last = place(event);
  stroke(event);
});
canvas.addEventListener("pointermove", (event) => last && stroke(event));
for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { last = null; });
element.querySelector("button").addEventListener("click", () => { clear(); tell(); });
