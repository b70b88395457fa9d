/**
 * The camera inside a panorama: plain numbers, no DOM and no WebGL.
 *
 * Angles are in degrees: yaw turns to the right, pitch looks up, fov spans the width of the frame. A camera is a frozen
 * {yaw, pitch, fov}; every function returns a new one. The server's `perspective_view` uses the same signs.
 */

const LIMITS = { pitch: [-90, 90], fov: [10, 140] };
const DEGREE = Math.PI / 180;

export const FRONT = Object.freeze({ yaw: 0, pitch: 0, fov: 90 });

const clamp = (value, [low, high]) => Math.min(high, Math.max(low, value));
const wrap = (angle) => ((((angle + 180) % 360) + 360) % 360) - 180;

/** Return the camera with all three angles finite and in range; invalid values are replaced by those of FRONT. */
export function camera(angles) {
  const number = (name) => (Number.isFinite(angles?.[name]) ? angles[name] : FRONT[name]);
  return Object.freeze({
    yaw: wrap(number("yaw")),
    pitch: clamp(number("pitch"), LIMITS.pitch),
    fov: clamp(number("fov"), LIMITS.fov),
  });
}

export const turned = (from, yaw, pitch) => camera({ ...from, yaw: from.yaw + yaw, pitch: from.pitch + pitch });

export const zoomed = (from, factor) => camera({ ...from, fov: from.fov * factor });

/** Return half the picture plane's [width, height] at distance 1, for a frame of aspect = width / height. */
export function plane({ fov }, aspect) {
  const half = Math.tan((fov * DEGREE) / 2);
  return [half, half / aspect];
}

/** Return {lon, lat} in degrees, to the right and up, seen at (x to the right, y up) in [-1, 1] of the frame. */
export function seen(from, x, y, aspect) {
  const [halfWidth, halfHeight] = plane(from, aspect);
  const [right, above] = [x * halfWidth, y * halfHeight];
  const [yaw, pitch] = [from.yaw * DEGREE, from.pitch * DEGREE];
  const up = above * Math.cos(pitch) + Math.sin(pitch);
  const front = Math.cos(pitch) - above * Math.sin(pitch);
  const lon = Math.atan2(right * Math.cos(yaw) + front * Math.sin(yaw), front * Math.cos(yaw) - right * Math.sin(yaw));
  return { lon: lon / DEGREE, lat: Math.atan2(up, Math.hypot(right, front)) / DEGREE };
}

/** Return the pixel [column, row] of a panorama of that size which lies in the direction {lon, lat}. */
export function texelAt({ lon, lat }, width, height) {
  const column = Math.floor((lon / 360 + 0.5) * width);
  const row = Math.floor((0.5 - lat / 180) * height);
  return [((column % width) + width) % width, clamp(row, [0, height - 1])];
}
