"use strict";
// One volume in three planes, by NiiVue.

const CROSS = 0.2; // width of the cross, percent of the picture
const received = new Map();

// Each file of volumes/ calls this: scripts may be loaded from a folder, other files may not.
function receiveVolume(number, data) {
  received.set(number, data);
}

function loadVolume(number) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = `volumes/${number}.js`;
    script.onload = () => {
      script.remove();
      const data = received.get(number);
      received.delete(number);
      data ? resolve(data) : reject(new Error("empty"));
    };
    script.onerror = () => reject(new Error("missing"));
    document.head.append(script);
  });
}

class Viewer {
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.changed = changed;
    const modes = niivue.DRAG_MODE;
    this.nv = new niivue.Niivue({
      backColor: [0, 0, 0, 1],
      crosshairColor: [0.2, 0.65, 1, 0.8],
      crosshairWidth: CROSS,
      crosshairWidthUnit: "percent",
      fontColor: [0.85, 0.9, 0.95, 1],
      show3Dcrosshair: false,
      isColorbar: false,
      isRuler: false,
      dragAndDropEnabled: false,
      clipPlaneHotKey: "",
      cycleClipPlaneHotKey: "",
      viewModeHotKey: "",
      loadingText: "",
      logLevel: "silent",
      isRadiologicalConvention: true,
      multiplanarShowRender: niivue.SHOW_RENDER.NEVER,
      mouseEventConfig: { leftButton: { primary: modes.crosshair }, rightButton: modes.none, centerButton: modes.pan },
      touchEventConfig: { singleTouch: modes.crosshair, doubleTouch: modes.pan },
    });
    this.nv.onLocationChange = () => this.changed();
  }

  async open() {
    if (!document.createElement("canvas").getContext("webgl2")) throw new Error("webgl2");
    await this.nv.attachToCanvas(this.canvas);
    this.nv.setSliceType(this.nv.sliceTypeMultiplanar);
    this.dragWindow();
  }

  async show(base64) {
    const volume = await niivue.NVImage.loadFromBase64({ base64, name: "volume.nii" });
    while (this.nv.volumes.length) this.nv.removeVolumeByIndex(0);
    this.nv.addVolume(volume);
    this.nv.scene.crosshairPos = [0.5, 0.5, 0.5];
    this.nv.setPan2Dxyzmm([0, 0, 0, 1]);
    this.reset();
  }

  get volume() {
    return this.nv.volumes[0];
  }

  // voxels along left-right, back-front, foot-head
  get size() {
    return this.volume ? this.volume.dimsRAS.slice(1, 4) : [1, 1, 1];
  }

  get place() {
    return this.volume ? Array.from(this.nv.frac2vox(this.nv.scene.crosshairPos)).map(Math.round) : [0, 0, 0];
  }

  moveTo(place) {
    if (!this.volume) return;
    const inside = place.map((at, axis) => Math.min(Math.max(at, 0), this.size[axis] - 1));
    this.nv.scene.crosshairPos = this.nv.vox2frac(inside);
    this.nv.drawScene();
    this.changed();
  }

  step(axis, steps) {
    const place = this.place;
    place[axis] += steps;
    this.moveTo(place);
  }

  get window() {
    return this.volume ? [(this.volume.cal_min + this.volume.cal_max) / 2, this.volume.cal_max - this.volume.cal_min] : [0, 1];
  }

  set window([level, width]) {
    if (!this.volume) return;
    const wide = Math.max(width, 1);
    this.volume.cal_min = level - wide / 2;
    this.volume.cal_max = level + wide / 2;
    this.nv.updateGLVolume();
    this.changed();
  }

  // Dragged with the right button: downwards darker, to the right softer. NiiVue's own goes by steps, not by distance.
  dragWindow() {
    let from = null;
    this.canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    this.canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 2) return;
      from = { x: event.clientX, y: event.clientY, window: this.window };
      this.canvas.setPointerCapture(event.pointerId);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!from) return;
      const range = STUDY.high - STUDY.low;
      const down = ((event.clientY - from.y) / this.canvas.clientHeight) * range;
      const right = ((event.clientX - from.x) / this.canvas.clientWidth) * range;
      this.window = [from.window[0] + down, from.window[1] + right];
    });
    for (const end of ["pointerup", "pointercancel"]) this.canvas.addEventListener(end, () => (from = null));
  }

  reset() {
    this.window = [(STUDY.low + STUDY.high) / 2, STUDY.high - STUDY.low];
  }

  toggleCross() {
    this.nv.setCrosshairWidth(this.nv.opts.crosshairWidth ? 0 : CROSS);
  }
}
