// The canvas of the page: boxes of the conditions (red) and related regions (green), moved and resized by their
// corners with a pointer, or drawn anew. The component's value is JSON: {width, height, grid, pictures, boxes, related, drawn}, boxes as
// [x, y, width, height] in canvas pixels. `element`, `props`, `trigger` and `watch` are Gradio's.
const LISTS = { box: "boxes", region: "related" };
const COLORS = { box: "#e63c32", region: "#149650" };
const HANDLE = 8; // pixels of the screen around a corner
let board = null, tool = "move", drag = null, pictures = [];

const canvas = () => element.querySelector("canvas");
const scale = () => canvas().width / board.width;
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const snap = (value) => Math.round(value / board.grid) * board.grid;

function read() {
  board = props.value ? JSON.parse(props.value) : null;
  pictures = ((board && board.pictures) || []).map((source) => {
    const image = new Image();
    image.onload = draw;
    image.src = source;
    return image;
  });
  draw();
}

function draw() {
  if (!canvas()) return;
  element.querySelectorAll("button").forEach((b) => b.classList.toggle("on", b.dataset.tool === tool));
  if (!board) return;
  canvas().width = 512;
  canvas().height = Math.round((512 * board.height) / board.width);
  const paint = canvas().getContext("2d"), k = scale();
  paint.fillStyle = "#808080";
  paint.fillRect(0, 0, canvas().width, canvas().height);
  board.boxes.forEach(([x, y, w, h], i) => {
    if (pictures[i] && pictures[i].complete) paint.drawImage(pictures[i], x * k, y * k, w * k, h * k);
  });
  for (const kind of ["region", "box"]) {
    paint.strokeStyle = paint.fillStyle = COLORS[kind];
    paint.lineWidth = 2;
    paint.setLineDash(kind === "region" ? [8, 6] : []);
    for (const [x, y, w, h] of board[LISTS[kind]]) {
      paint.strokeRect(x * k + 1, y * k + 1, w * k - 2, h * k - 2);
      for (const [a, b] of [[x, y], [x + w, y], [x, y + h], [x + w, y + h]])
        paint.fillRect(clamp(a * k - 5, 0, canvas().width - 10), clamp(b * k - 5, 0, canvas().height - 10), 10, 10);
    }
  }
  const words = (list) => list.map((b) => `[${b.join(", ")}]`).join(" ") || "none";
  element.querySelector(".told").textContent =
    `box ${words(board.boxes)}, related region ${words(board.related)} of ${board.width} x ${board.height}` +
    (board.drawn ? ", drawn by you" : ", as planned");
}

function at(event) {
  const place = canvas().getBoundingClientRect();
  const x = ((event.clientX - place.left) / place.width) * board.width;
  const y = ((event.clientY - place.top) / place.height) * board.height;
  return [clamp(x, 0, board.width), clamp(y, 0, board.height), (HANDLE / place.width) * board.width];
}

// What a drag does that begins here: draw a new one, pull a corner, or move what the pointer is in.
function begin(x, y, near) {
  if (tool !== "move") {
    const list = board[LISTS[tool]];
    if (tool === "region") list.length = 0; // one region is drawn; a planner's several go
    return { kind: tool, i: Math.min(list.length, tool === "box" ? board.pictures.length - 1 : 0), anchor: [x, y] };
  }
  for (const kind of ["box", "region"])
    for (const [i, [bx, by, w, h]] of board[LISTS[kind]].entries())
      for (const [cx, cy, ox, oy] of [[bx, by, bx + w, by + h], [bx + w, by, bx, by + h],
                                      [bx, by + h, bx + w, by], [bx + w, by + h, bx, by]])
        if (Math.hypot(cx - x, cy - y) <= near) return { kind, i, anchor: [ox, oy] };
  for (const kind of ["box", "region"])
    for (const [i, [bx, by, w, h]] of board[LISTS[kind]].entries())
      if (x >= bx && x <= bx + w && y >= by && y <= by + h) return { kind, i, from: [bx, by, w, h], at: [x, y] };
  return null;
}

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) { tool = button.dataset.tool; draw(); }
});
element.addEventListener("pointerdown", (event) => {
  if (event.target !== canvas() || !board) return;
  event.preventDefault();
  canvas().setPointerCapture(event.pointerId);
  drag = begin(...at(event));
});
element.addEventListener("pointermove", (event) => {
  if (!drag) return;
  const [x, y] = at(event), list = board[LISTS[drag.kind]];
  if (drag.anchor) {
    const [ax, ay] = drag.anchor.map(snap), [bx, by] = [snap(x), snap(y)];
    const w = Math.abs(bx - ax), h = Math.abs(by - ay);
    if (!w || !h) return;
    list[drag.i] = [Math.min(ax, bx), Math.min(ay, by), w, h];
  } else {
    const [bx, by, w, h] = drag.from;
    list[drag.i] = [clamp(snap(bx + x - drag.at[0]), 0, board.width - w),
                    clamp(snap(by + y - drag.at[1]), 0, board.height - h), w, h];
  }
  drag.moved = true;
  draw();
});
element.addEventListener("pointerup", () => {
  if (drag && drag.moved) {
    board.drawn = true;
    tool = "move";
    props.value = JSON.stringify(board);
    draw();
  }
  drag = null;
});
watch("value", read);
read();
