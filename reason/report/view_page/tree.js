// The tree on its canvas: zooming from an overview of thousands of dots to cards that can be read, by mouse, finger or
// keyboard. Only what is on the screen is drawn.

const ZOOM = { x: [3, 420], y: [0.02, 120] }; // pixels a level, pixels a row
const WIDE = 170; // columns wider than this grow slower than rows, and not before there is room for cards
const REACH = 12; // pixels around a node that count as the node
const MARGIN = 24;

class TreeView {
  // `on` has select(node), and fold(node), called after the user did so.
  constructor(canvas, on) {
    this.canvas = canvas;
    this.on = on;
    this.run = null;
    this.shade = null;
    this.pruned = true; // whether pruned leaves are shown
    this.selected = null;
    this.hovered = null;
    this.view = { x: 0, y: 0, sx: 100, sy: 40 };
    this.fitting = true; // the view follows the canvas's size until the user moves it
    this.moving = null;
    this.waiting = false;
    this.drawn = { milliseconds: 0, nodes: 0 };
    this.pointers = new Map();
    new ResizeObserver(() => (this.fitting ? this.fit(false) : this.draw())).observe(canvas);
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.release(event));
    canvas.addEventListener("pointercancel", (event) => this.pointers.delete(event.pointerId));
    canvas.addEventListener("pointerleave", () => this.hover(null));
    canvas.addEventListener("dblclick", (event) => this.fold(this.at(event.offsetX, event.offsetY)));
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("focus", () => this.draw());
    canvas.addEventListener("blur", () => this.draw());
  }

  // Another run, or with `keep` more of the same.
  show(run, { keep = false, selected = null } = {}) {
    if (keep) for (const node of run.nodes) node.folded = this.run.byId.get(node.id)?.folded;
    this.run = run;
    this.selected = (keep ? run.byId.get(this.selected.id) : selected) ?? run.root;
    this.hovered = null;
    if (!keep) this.fitting = true;
    this.arrange();
  }

  // Lays the tree out anew, with a node staying where it is on the screen.
  arrange(anchor = null) {
    const before = anchor && anchor.placed ? this.screen(anchor) : null;
    this.layout = layOut(this.run, { pruned: this.pruned });
    while (!this.selected.placed) this.selected = this.selected.up;
    if (before && !this.fitting) this.view.y += before.y - this.screen(anchor).y;
    if (this.fitting) this.fit(false);
    this.draw();
  }

  // -- where things are

  screen(node) {
    return { x: this.view.x + node.depth * this.view.sx, y: this.view.y + node.y * this.view.sy };
  }

  // Whether there is room for a card; else a node is a dot.
  isCard(node) {
    return this.view.sx >= CARD.x && this.view.sy * node.height >= CARD.y;
  }

  // Where its right edge is, from its place.
  breadth(node) {
    return this.isCard(node) ? this.view.sx - CARD.gap : 0;
  }

  radius(node) {
    const room = Math.min(this.view.sy * 0.42, this.view.sx * 0.16);
    return clamp(node.dead ? room * 0.7 : room, 1.2, 6.5);
  }

  // The node at a place on the screen, or the nearest within reach of a finger.
  at(x, y) {
    let found = null;
    let best = Infinity;
    for (const node of this.visible()) {
      const place = this.screen(node);
      const aside = x - clamp(x, place.x, place.x + this.breadth(node));
      const half = this.isCard(node) ? (node.height * this.view.sy) / 2 : 0;
      const distance = Math.hypot(aside, Math.max(0, Math.abs(y - place.y) - half));
      if (distance < best && distance <= REACH) [best, found] = [distance, node];
    }
    return found;
  }

  // Nodes that are there by now and on the screen.
  *visible() {
    const { width, height } = this.size();
    const { x, y, sx, sy } = this.view;
    const first = Math.max(0, Math.floor(-x / sx) - 1);
    const end = Math.min(this.layout.levels.length, Math.ceil((width - x) / sx) + 1);
    for (let depth = first; depth < end; depth += 1) {
      const level = this.layout.levels[depth];
      let [low, high] = [0, level.length];
      while (low < high) {
        const middle = (low + high) >> 1;
        if (y + (level[middle].y + 0.5) * sy < 0) low = middle + 1;
        else high = middle;
      }
      for (; low < level.length && y + (level[low].y - 0.5) * sy <= height; low += 1) {
        if (this.run.seen(level[low])) yield level[low];
      }
    }
  }

  size() {
    return { width: this.canvas.clientWidth, height: this.canvas.clientHeight };
  }

  // -- moving about

  // Shows all of it, as large as is comfortable.
  fit(smooth = true) {
    if (!this.layout) return;
    const { width, height } = this.size();
    const { rows, columns } = this.layout;
    const sx = clamp((width - 2 * MARGIN) / columns, ...ZOOM.x);
    const sy = clamp((height - 2 * MARGIN) / rows, ZOOM.y[0], 64);
    const cards = sx >= CARD.x && sy >= CARD.y;
    const view = {
      sx,
      sy,
      x: cards ? MARGIN : Math.max(MARGIN, (width - (columns - 1) * sx) / 2),
      y: (height - rows * sy) / 2,
    };
    this.fitting = true;
    this.go(view, smooth);
  }

  // Magnifies around a place.
  zoom(factor, x = this.size().width / 2, y = this.size().height / 2, smooth = false) {
    const from = smooth && this.moving ? this.moving.to : this.view;
    const slowly = from.sx <= WIDE ? factor : factor > 1 && from.sy < CARD.y ? 1 : Math.sqrt(factor);
    const sx = clamp(from.sx * slowly, ...ZOOM.x);
    const sy = clamp(from.sy * factor, ...ZOOM.y);
    this.fitting = false;
    this.go({ sx, sy, x: x - ((x - from.x) / from.sx) * sx, y: y - ((y - from.y) / from.sy) * sy }, smooth);
  }

  // Brings a node onto the screen.
  reveal(node, smooth = true) {
    const to = this.moving ? this.moving.to : this.view;
    const { width, height } = this.size();
    const x = to.x + node.depth * to.sx;
    const y = to.y + node.y * to.sy;
    const right = MARGIN + this.breadth(node);
    const view = { ...to };
    if (x < MARGIN) view.x += MARGIN - x;
    else if (x + right > width) view.x -= x + right - width;
    if (y < 2 * MARGIN) view.y += 2 * MARGIN - y;
    else if (y > height - 2 * MARGIN) view.y -= y - height + 2 * MARGIN;
    if (view.x !== to.x || view.y !== to.y) {
      this.fitting = false;
      this.go(view, smooth);
    }
  }

  go(view, smooth) {
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (!smooth || still) {
      this.moving = null;
      this.view = view;
    } else {
      this.moving = { from: this.view, to: view, began: performance.now() };
    }
    this.draw();
  }

  step() {
    if (!this.moving) return;
    const share = clamp((performance.now() - this.moving.began) / 220, 0, 1);
    const eased = 1 - (1 - share) ** 3;
    const { from, to } = this.moving;
    this.view = Object.fromEntries(Object.keys(to).map((key) => [key, from[key] + eased * (to[key] - from[key])]));
    if (share === 1) this.moving = null;
    else this.draw();
  }

  draw() {
    if (this.waiting || !this.run) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.step();
      const began = performance.now();
      const nodes = paintTree(this);
      this.drawn = { milliseconds: performance.now() - began, nodes };
    });
  }

  // -- the user

  select(node, { reveal = true } = {}) {
    if (!node) return;
    this.selected = node;
    if (reveal) this.reveal(node);
    this.draw();
    this.on.select(node);
  }

  hover(node) {
    if (node === this.hovered) return;
    this.hovered = node;
    this.canvas.style.cursor = node ? "pointer" : "grab";
    this.draw();
  }

  fold(node) {
    if (!node || !node.children.length) return;
    node.folded = !node.folded;
    this.arrange(node);
    this.on.fold(node);
  }

  wheel(event) {
    event.preventDefault();
    const unit = event.deltaMode === 1 ? 16 : 1;
    if (event.shiftKey) this.pan(-event.deltaY * unit, 0);
    else this.zoom(Math.exp(clamp(-event.deltaY * unit, -240, 240) * 0.0022), event.offsetX, event.offsetY);
  }

  pan(x, y) {
    this.moving = null;
    this.fitting = false;
    this.view = { ...this.view, x: this.view.x + x, y: this.view.y + y };
    this.draw();
  }

  press(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.canvas.focus({ preventScroll: true });
    this.pointers.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
    this.travelled = 0;
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) {
      this.hover(this.at(event.offsetX, event.offsetY));
      return;
    }
    const now = { x: event.offsetX, y: event.offsetY };
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
    this.travelled += Math.hypot(now.x - before.x, now.y - before.y);
    if (other) {
      const span = (point) => Math.max(10, Math.hypot(point.x - other.x, point.y - other.y));
      this.zoom(span(now) / span(before), other.x, other.y);
    } else if (this.travelled > 4) {
      this.pan(now.x - before.x, now.y - before.y);
    }
    this.pointers.set(event.pointerId, now);
  }

  release(event) {
    const pressed = this.pointers.delete(event.pointerId);
    if (pressed && this.travelled <= 4) this.select(this.at(event.offsetX, event.offsetY), { reveal: false });
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const node = this.selected;
    const there = (other) => other && other.placed && this.run.seen(other);
    const among = (nodes, step) => {
      const level = nodes.filter(there);
      return level[level.indexOf(node) + step];
    };
    const children = node.children.filter(there);
    const best = [(child) => this.run.answerPath.has(child.id), (child) => !child.notes.pruned, () => true];
    const solution = this.run.end && this.run.byId.get(this.run.end.node);
    const actions = {
      ArrowLeft: () => this.select(node.up),
      ArrowRight: () => this.select(best.map((wanted) => children.find(wanted)).find(Boolean)),
      ArrowUp: () => this.select(among(this.layout.levels[node.depth], -1)),
      ArrowDown: () => this.select(among(this.layout.levels[node.depth], 1)),
      Home: () => this.select(this.run.root),
      End: () => this.select(there(solution) ? solution : null),
      "+": () => this.zoom(1.4, ...this.focusPoint(), true),
      "=": () => this.zoom(1.4, ...this.focusPoint(), true),
      "-": () => this.zoom(1 / 1.4, ...this.focusPoint(), true),
      0: () => this.fit(),
      f: () => this.fold(node),
    };
    if (!(event.key in actions)) return;
    event.preventDefault();
    actions[event.key]();
  }

  // What keys magnify around: the selected node, if it is on the screen.
  focusPoint() {
    const { x, y } = this.screen(this.selected);
    const { width, height } = this.size();
    return x >= 0 && y >= 0 && x <= width && y <= height ? [x, y] : [width / 2, height / 2];
  }
}
