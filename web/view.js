/** A workflow of this pack opens as large as the frontend's bars allow, so that its notes can be read.
 *
 * From the template browser, the frontend fits a graph into three quarters of the screen and ignores the view that is
 * saved in it. On a small screen the view shows the notes and what follows them, as large as letters are drawn: the rest
 * is to the right. Nothing else is changed: not a file's own view, not that of undo, and not that of another tab.
 */

import { app } from "../../../scripts/app.js";

// How far bars cover the sides of the graph, and the height of a title, in pixels (as lab/workflows/forms.py).
const BARS = { left: 90, top: 110, right: 50, bottom: 80 };
const TITLE = 40;
// Below 8/14 the frontend draws no letters, not even in notes.
const LEAST = 0.6;

const shown = ({ scale, offset }) => [scale, ...offset].map((value) => value.toFixed(3)).join();
const isOurs = ({ properties }) => properties?.cnr_id === "omnix-panorama";

/** Show all nodes between the bars, at their own size at most; if letters would vanish, show the upper left ones. */
function fit({ ds, canvas }, nodes) {
  const { width, height } = canvas.getBoundingClientRect();
  const [left, top, right, bottom] = nodes.reduce(
    ([l, t, r, b], { pos: [x, y], size: [w, h] }) =>
      [Math.min(l, x), Math.min(t, y - TITLE), Math.max(r, x + w), Math.max(b, y + h)],
    [Infinity, Infinity, -Infinity, -Infinity],
  );
  const whole = Math.min(
    (width - BARS.left - BARS.right) / (right - left), (height - BARS.top - BARS.bottom) / (bottom - top), 1,
  );
  if (whole <= 0) return; // the graph is not on the screen, as in app mode
  const scale = Math.max(whole, LEAST);
  ds.scale = scale;
  ds.offset = [BARS.left / scale - left, BARS.top / scale - top];
}

let before = "";

app.registerExtension({
  name: "OmniX.View",
  beforeConfigureGraph() {
    before = shown(app.canvas.ds);
  },
  afterConfigureGraph() {
    const { canvas } = app;
    const { nodes, extra } = app.rootGraph ?? app.graph;
    const now = shown(canvas.ds);
    if (!extra?.ds || now === before || now === shown(extra.ds) || !nodes.some(isOurs)) return;
    fit(canvas, nodes);
    canvas.setDirty(true, true);
  },
});
