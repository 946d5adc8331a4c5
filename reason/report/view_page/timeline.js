// Below the tree: the run's events on a slider, what they had cost by then, and a replay.

const LANES = [
  { name: "generated tokens", colour: "tokens", of: (usage) => usage.tokens, limit: "policy_tokens" },
  {
    name: "unique KV tokens held",
    colour: "memory",
    of: (usage) => usage.held,
    also: (usage) => usage.peak,
    alsoName: "peak",
    limit: "kv_tokens",
  },
  {
    name: "drafted tokens",
    colour: "faint",
    of: (usage) => usage.drafted,
    also: (usage) => usage.accepted,
    alsoName: "accepted",
    optional: true,
  },
];
const REPLAY_SECONDS = 20;
const NARROW = 820; // as in the style sheet

class Timeline {
  // `on` has seek(count), called when the user or the replay moved.
  constructor(root, on) {
    this.on = on;
    this.canvas = root.querySelector("#curves");
    this.slider = root.querySelector("#slider");
    this.status = root.querySelector("#status");
    this.axis = root.querySelector("#axis");
    this.playButton = root.querySelector("#play");
    this.speed = 1;
    this.playing = null;
    this.slider.addEventListener("input", () => this.jump(this.slider.valueAsNumber));
    this.axis.addEventListener("change", () => this.draw());
    this.playButton.addEventListener("click", () => this.toggle());
    const speed = root.querySelector("#speed");
    speed.addEventListener("change", () => (this.speed = Number(speed.value)));
    root.querySelector("#first").addEventListener("click", () => this.jump(0));
    root.querySelector("#back").addEventListener("click", () => this.jump(this.run.at - 1));
    root.querySelector("#next").addEventListener("click", () => this.jump(this.run.at + 1));
    root.querySelector("#last").addEventListener("click", () => this.jump(this.run.events.length));
    const drag = (event) => event.buttons && this.jump(this.eventAt(event.offsetX));
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      drag(event);
    });
    this.canvas.addEventListener("pointermove", drag);
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  show(run) {
    this.pause();
    this.run = run;
    this.points = curve(run.usage);
    this.slider.max = run.events.length;
    this.lanes = LANES.filter((lane) => !lane.optional || this.points.some((point) => lane.of(point)));
    this.canvas.style.height = `${this.lanes.length * (window.innerWidth > NARROW ? 46 : 34)}px`;
    this.update();
  }

  // -- moving

  jump(count, { playing = false } = {}) {
    if (!playing) this.pause();
    this.on.seek(clamp(Math.round(count), 0, this.run.events.length));
  }

  // Shows where the run is now.
  update() {
    const { run } = this;
    this.slider.value = run.at;
    const event = run.events[run.at - 1];
    const words = event ? describe(event) : "the problem is given";
    const point = this.points[run.at - 1];
    const cost = point
      ? ` \u00b7 ${point.seconds.toFixed(1)} s \u00b7 ${number(point.tokens)} tokens \u00b7 KV ${number(Math.round(point.held))}, peak ${number(point.peak)}`
      : "";
    const drafts = point?.drafted
      ? ` \u00b7 ${number(point.accepted)} of ${number(point.drafted)} drafts accepted`
      : "";
    this.status.textContent = `event ${run.at} of ${run.events.length} \u00b7 ${words}${cost}${drafts}`;
    this.slider.setAttribute("aria-valuetext", `event ${run.at} of ${run.events.length}: ${words}`);
    this.draw();
  }

  toggle() {
    if (this.playing) return this.pause();
    if (this.run.at === this.run.events.length) this.on.seek(0);
    this.playing = { place: this.run.at, time: performance.now() };
    this.label();
    requestAnimationFrame((time) => this.tick(time));
  }

  pause() {
    this.playing = null;
    this.label();
  }

  label() {
    this.playButton.setAttribute("aria-label", this.playing ? "Pause" : "Replay");
    this.playButton.classList.toggle("on", Boolean(this.playing));
  }

  tick(time) {
    if (!this.playing) return;
    const pace = (this.speed * this.run.events.length) / REPLAY_SECONDS;
    this.playing.place += (Math.max(0, time - this.playing.time) / 1000) * Math.min(pace, this.speed * 400);
    this.playing.time = time;
    if (Math.floor(this.playing.place) !== this.run.at) this.jump(Math.floor(this.playing.place), { playing: true });
    if (this.run.at === this.run.events.length) this.pause();
    else requestAnimationFrame((next) => this.tick(next));
  }

  // -- drawing

  // The axis's value after each event; the first is the beginning.
  places() {
    const axis = this.axis.value;
    const of = { events: (point, i) => i + 1, seconds: (point) => point.seconds, tokens: (point) => point.tokens }[
      axis
    ];
    if (this.cached?.run !== this.run || this.cached.axis !== axis) {
      this.cached = { run: this.run, axis, places: [0, ...this.points.map(of)] };
    }
    return this.cached.places;
  }

  eventAt(x) {
    const places = this.places();
    const wanted = (clamp(x - this.inset, 0, this.width) / this.width) * last(places);
    let [low, high] = [0, places.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (places[middle] <= wanted) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  draw() {
    if (!this.run || this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.paint();
    });
  }

  paint() {
    const { context, width, height } = prepared(this.canvas);
    this.inset = 8; // half of the slider's knob
    this.width = width - 2 * this.inset;
    const places = this.places();
    const end = last(places) || 1;
    const x = (event) => this.inset + (places[event] / end) * this.width;
    const tall = height / this.lanes.length;
    this.lanes.forEach((lane, i) => this.paintLane(context, lane, { x, top: i * tall, bottom: (i + 1) * tall - 3 }));
    context.fillStyle = palette.colours.accent;
    context.fillRect(x(this.run.at) - 0.75, 0, 1.5, height);
  }

  paintLane(context, lane, { x, top, bottom }) {
    const { colours } = palette;
    const { points } = this;
    const limit = this.run.header.budget?.[lane.limit];
    const second = lane.also ?? lane.of;
    const most = points.reduce((high, point) => Math.max(high, lane.of(point), second(point)), 1);
    const reach = limit && limit < 2 * most ? Math.max(most, limit) : most;
    const y = (value) => bottom - (value / reach) * (bottom - top - 15);
    const line = (of) => {
      context.beginPath();
      context.moveTo(x(0), bottom);
      let [drawn, level, high] = [x(0), 0, 0];
      points.forEach((point, at) => {
        const right = x(at + 1);
        high = Math.max(high, of(point));
        if (right - drawn < 0.7 && at + 1 < points.length) return; // of the events on a pixel, the highest
        context.lineTo(right, y(level));
        context.lineTo(right, y(high));
        [drawn, level, high] = [right, high, 0];
      });
    };
    context.lineWidth = 1.4;
    context.strokeStyle = colours[lane.colour];
    line(lane.of);
    context.stroke();
    context.lineTo(x(points.length), bottom);
    context.globalAlpha = 0.13;
    context.fillStyle = colours[lane.colour];
    context.fill();
    context.globalAlpha = 1;
    if (lane.also) {
      context.setLineDash([3, 3]);
      line(lane.also);
      context.stroke();
      context.setLineDash([]);
    }
    if (limit && limit <= reach) {
      context.fillStyle = colours.alarm;
      context.fillRect(x(0), y(limit), this.width, 1);
    }
    const now = points[this.run.at - 1];
    const parts = now ? [number(Math.round(lane.of(now)))] : [];
    if (now && lane.also) parts.push(`${lane.alsoName} ${number(lane.also(now))}`);
    if (limit) parts.push(`limit ${number(limit)}`);
    context.font = `11px ${FONT}`;
    context.textBaseline = "alphabetic";
    context.fillStyle = colours.soft;
    context.fillText(`${lane.name}  ${parts.join(", ")}`, this.inset, top + 11);
  }
}

// The ledger after each event, and what was held on average since the one before: the ledger has the mean over all
// forwards, so m2 f2 - m1 f1 over f2 - f1 is that of those in between.
function curve(usage) {
  let before = { mean: 0, forwards: 0, held: 0, seconds: 0 };
  return usage.map((now) => {
    const forwards = now.forwards - before.forwards;
    const held =
      forwards > 0
        ? clamp((now.mean * now.forwards - before.mean * before.forwards) / forwards, 0, now.peak)
        : before.held;
    const point = { ...now, held, seconds: Math.max(now.seconds, before.seconds) };
    before = point;
    return point;
  });
}

// An event in words.
function describe({ kind, nodes, name, notes }) {
  const some = nodes.length > 6 ? `${nodes.length} nodes` : `node${nodes.length > 1 ? "s" : ""} ${nodes.join(", ")}`;
  if (kind === "node") return `${some} arrived`;
  if (kind === "measure") return `${some} measured by ${name}`;
  const changes = Object.values(notes ?? {});
  const pruned = changes.filter((each) => each.pruned).length;
  const merged = changes.filter((each) => "merged_into" in each).length;
  const more = `${pruned ? `, ${pruned} pruned` : ""}${merged ? `, ${merged} merged` : ""}`;
  return `${nodes.length ? `told of ${some}` : "samples cancelled"}${more}`;
}
