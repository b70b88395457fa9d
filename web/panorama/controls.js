/** Turn pointer, wheel and key events into calls of the viewer's methods. */

import { turned, zoomed } from "./camera.js";

const DEGREE = Math.PI / 180;
const WHEEL_UNIT = [1, 16, 400]; // pixels per unit of deltaMode: pixels, lines, pages

// A key press moves by a part of the visible angle, so that its step fits the zoom.
const STEP = 1 / 12;
const ZOOM = 0.9;

const look = (right, up) => (viewer) => {
  viewer.camera = turned(viewer.camera, right * STEP * viewer.camera.fov, up * STEP * viewer.camera.fov);
};
const zoom = (factor) => (viewer) => {
  viewer.camera = zoomed(viewer.camera, factor);
};

const KEYS = {
  ArrowLeft: look(-1, 0),
  ArrowRight: look(1, 0),
  ArrowUp: look(0, 1),
  ArrowDown: look(0, -1),
  "+": zoom(ZOOM),
  "=": zoom(ZOOM),
  "-": zoom(1 / ZOOM),
  r: (viewer) => viewer.reset(),
  f: (viewer) => viewer.fullScreen(),
  c: (viewer) => viewer.capture(),
  s: (viewer) => viewer.save(),
  m: (viewer) => viewer.nextMap(1),
  M: (viewer) => viewer.nextMap(-1),
  b: (viewer) => viewer.nextInBatch(1),
  B: (viewer) => viewer.nextInBatch(-1),
};

/** Listen on the viewer's elements; all listeners go away with the `signal`. */
export function listen(viewer, { root, canvas }, signal) {
  const on = (target, name, listener) => target.addEventListener(name, listener, { signal, passive: false });
  on(root, "keydown", (event) => pressed(viewer, event));
  // The graph has its own shortcuts on letters and Delete; they must not run while the viewer has the focus.
  on(root, "keyup", (event) => !shortcut(event) && event.stopPropagation());
  ["pointerdown", "mousedown", "dblclick", "contextmenu"].forEach((name) =>
    on(root, name, (event) => event.stopPropagation()),
  );
  on(canvas, "dblclick", () => viewer.fullScreen());
  // Nodes 2.0 catches wheel events before they reach the nodes, unless the element has the focus: catch them earlier.
  const capture = { signal, passive: false, capture: true };
  window.addEventListener("wheel", (event) => root.contains(event.target) && wheeled(viewer, event), capture);
  // The frontend zooms the graph with two fingers anywhere on the page; here the gesture is handled by pointer events.
  ["touchstart", "touchmove", "touchend", "touchcancel"].forEach((name) =>
    window.addEventListener(name, (event) => root.contains(event.target) && event.stopPropagation(), capture),
  );
  listenToPointer(viewer, root, canvas, on);
}

function listenToPointer(viewer, root, canvas, on) {
  const down = new Map(); // the last event of each pointer that is pressed
  on(canvas, "pointerdown", (event) => {
    if (event.button !== 0) return;
    root.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    down.set(event.pointerId, event);
  });
  on(canvas, "pointermove", (event) => {
    const last = down.get(event.pointerId);
    if (last) {
      event.stopPropagation();
      const other = [...down.values()].find(({ pointerId }) => pointerId !== event.pointerId);
      if (other) pinched(viewer, other, last, event);
      else dragged(viewer, canvas, event.clientX - last.clientX, event.clientY - last.clientY);
      down.set(event.pointerId, event);
    }
    viewer.pointAt(event);
  });
  ["pointerup", "pointercancel"].forEach((name) => on(canvas, name, (event) => down.delete(event.pointerId)));
  on(canvas, "pointerleave", () => viewer.pointAt(null));
}

/** Zoom by how far the second finger moved away from the first. */
function pinched(viewer, other, last, event) {
  const apart = ({ clientX, clientY }) => Math.hypot(clientX - other.clientX, clientY - other.clientY);
  viewer.camera = zoomed(viewer.camera, Math.max(apart(last), 1) / Math.max(apart(event), 1));
}

/** Turn with the pointer: in the middle of the frame, the point under the pointer stays under it. */
function dragged(viewer, canvas, x, y) {
  const perPixel = (2 * Math.tan((viewer.camera.fov * DEGREE) / 2)) / canvas.getBoundingClientRect().width / DEGREE;
  viewer.camera = turned(viewer.camera, -x * perPixel, y * perPixel);
}

function wheeled(viewer, event) {
  event.preventDefault();
  event.stopImmediatePropagation();
  viewer.camera = zoomed(viewer.camera, Math.exp(event.deltaY * WHEEL_UNIT[event.deltaMode] * 0.001));
}

const shortcut = (event) => event.ctrlKey || event.metaKey || event.altKey;

function pressed(viewer, event) {
  if (shortcut(event)) return;
  event.stopPropagation();
  const action = KEYS[event.key] ?? KEYS[event.key.toLowerCase()] ?? numbered(event.key);
  if (!action) return;
  event.preventDefault();
  action(viewer);
}

/** Keys 1 to 9 choose a map. */
const numbered = (key) => (/^[1-9]$/.test(key) ? (viewer) => viewer.chooseMap(Number(key) - 1) : undefined);
