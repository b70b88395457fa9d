/**
 * Draws a perspective view of an equirectangular picture with WebGL2, and reads single pixels of that picture.
 *
 * A picture is {texture, framebuffer, width, height}. After a lost context was restored, call `build` and upload again.
 */

import { plane } from "./camera.js";

const VERTEX = `#version 300 es
in vec2 corner;
out vec2 at;
void main() { at = corner; gl_Position = vec4(corner, 0.0, 1.0); }`;

// The level of detail comes from the angle that a pixel covers, which is continuous: derivatives of the texture
// coordinates jump at the seam (a visible line) and grow without bound at the poles (a blurred spot).
const FRAGMENT = `#version 300 es
precision highp float;
const float TURN = 6.283185307179586;
uniform sampler2D panorama;
uniform vec2 plane;
uniform vec2 yaw;    // cosine, sine
uniform vec2 pitch;  // cosine, sine
in vec2 at;
out vec4 colour;
void main() {
  vec3 ray = vec3(at * plane, 1.0);
  ray.yz = vec2(ray.y * pitch.x + ray.z * pitch.y, ray.z * pitch.x - ray.y * pitch.y);
  ray.xz = vec2(ray.x * yaw.x + ray.z * yaw.y, ray.z * yaw.x - ray.x * yaw.y);
  ray = normalize(ray);
  vec2 uv = vec2(0.5 + atan(ray.x, ray.z) / TURN, 0.5 - atan(ray.y, length(ray.xz)) / (0.5 * TURN));
  float covered = max(length(dFdx(ray)), length(dFdy(ray))) * float(textureSize(panorama, 0).x) / TURN;
  colour = vec4(textureLod(panorama, uv, log2(max(covered, 1e-6))).rgb, 1.0);
}`;

const MAX_CANVAS = 4096;

export class Renderer {
  /** Use a canvas; throws an Error with a message for users if the browser has no WebGL2. */
  constructor(canvas) {
    this.canvas = canvas;
    this.gl = canvas.getContext("webgl2", { alpha: false, antialias: false, depth: false });
    if (!this.gl) throw new Error("This browser offers no WebGL2, so the panorama cannot be shown.");
    this.build();
  }

  get lost() {
    return this.gl.isContextLost();
  }

  /** Compile the program and fill the one triangle that covers the frame. */
  build() {
    const { gl } = this;
    this.program = linked(gl, VERTEX, FRAGMENT);
    this.uniforms = ["plane", "yaw", "pitch"].map((name) => gl.getUniformLocation(this.program, name));
    this.corners = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, this.corners);
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 3, -1, -1, 3]), gl.STATIC_DRAW);
    const corner = gl.getAttribLocation(this.program, "corner");
    gl.enableVertexAttribArray(corner);
    gl.vertexAttribPointer(corner, 2, gl.FLOAT, false, 0, 0);
  }

  /** Return the largest possible width of a picture, in pixels. */
  get widest() {
    return this.gl.getParameter(this.gl.MAX_TEXTURE_SIZE);
  }

  /** Copy a bitmap to the graphics card, with all its coarser levels, and return the picture. */
  upload(bitmap) {
    const { gl } = this;
    const texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
    gl.generateMipmap(gl.TEXTURE_2D);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
    const framebuffer = gl.createFramebuffer();
    gl.bindFramebuffer(gl.FRAMEBUFFER, framebuffer);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    return { texture, framebuffer, width: bitmap.width, height: bitmap.height };
  }

  release(picture) {
    this.gl.deleteFramebuffer(picture.framebuffer);
    this.gl.deleteTexture(picture.texture);
  }

  /** Match the canvas to the size at which it is shown, in device pixels, and return width / height. */
  fit() {
    const { canvas } = this;
    const box = canvas.getBoundingClientRect();
    const scale = Math.min(window.devicePixelRatio || 1, MAX_CANVAS / Math.max(box.width, box.height, 1));
    const [width, height] = [box.width, box.height].map((side) => Math.max(1, Math.round(side * scale)));
    if (canvas.width !== width) canvas.width = width;
    if (canvas.height !== height) canvas.height = height;
    return width / height;
  }

  draw(picture, camera) {
    const { gl } = this;
    const aspect = this.fit();
    const [planeAt, yawAt, pitchAt] = this.uniforms;
    gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    gl.useProgram(this.program);
    gl.bindTexture(gl.TEXTURE_2D, picture.texture);
    gl.uniform2f(planeAt, ...plane(camera, aspect));
    gl.uniform2f(yawAt, ...turn(camera.yaw));
    gl.uniform2f(pitchAt, ...turn(camera.pitch));
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  clear() {
    this.gl.clear(this.gl.COLOR_BUFFER_BIT);
  }

  /** Return the exact [red, green, blue] of one pixel of the picture, in [0, 1]. */
  texel(picture, column, row) {
    const { gl } = this;
    const value = new Uint8Array(4);
    gl.bindFramebuffer(gl.FRAMEBUFFER, picture.framebuffer);
    gl.readPixels(column, row, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, value);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    return Array.from(value.subarray(0, 3), (byte) => byte / 255);
  }

  /** Release everything, including the context: browsers allow only about sixteen contexts per page. */
  dispose() {
    this.gl.deleteBuffer(this.corners);
    this.gl.deleteProgram(this.program);
    this.gl.getExtension("WEBGL_lose_context")?.loseContext();
    this.canvas.width = this.canvas.height = 1;
  }
}

const turn = (degrees) => [Math.cos((degrees * Math.PI) / 180), Math.sin((degrees * Math.PI) / 180)];

function linked(gl, ...sources) {
  const program = gl.createProgram();
  [gl.VERTEX_SHADER, gl.FRAGMENT_SHADER].forEach((kind, i) => {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, sources[i]);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
    gl.deleteShader(shader);
  });
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) {
    throw new Error(`The panorama viewer's shader does not link: ${gl.getProgramInfoLog(program)}`);
  }
  return program;
}
