// Drawing on canvases: the theme's colours, the scale of scores, and text that is cut to fit.

const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";
const CLASSES = ["#3a7bd5", "#e08a1e", "#2aa198", "#c2569f", "#7d63c9", "#9a8f2c", "#c8553d", "#5b8c5a"];
const SCALES = {
  light: ["#ecc94f", "#8fc46c", "#34a3a0", "#2c6db0", "#31358f"],
  dark: ["#6b5a22", "#7d9a3a", "#2fa79b", "#4fa3ea", "#b6ccff"],
};

const palette = { dark: false, colours: {} };

const COLOURS = [
  "page",
  "card",
  "line",
  "edge",
  "text",
  "soft",
  "faint",
  "accent",
  "answer",
  "merge",
  "alarm",
  "tokens",
  "memory",
];

// Reads the style sheet's colours again, after the theme changed. Canvases need them resolved, as elements have them.
function readPalette() {
  const wanted = document.documentElement.dataset.theme;
  palette.dark = wanted ? wanted === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const probe = document.body.appendChild(document.createElement("i"));
  for (const name of COLOURS) {
    probe.style.color = `var(--${name})`;
    palette.colours[name] = getComputedStyle(probe).color;
  }
  probe.remove();
}

// A node's colour in a shade, or null where it has no value.
function colourOf(shade, node) {
  const value = shade ? shade.of(node) : NaN;
  if (!Number.isFinite(value)) return null;
  if (shade.kind === "class") return CLASSES[value] ?? palette.colours.faint;
  return scaled(shade.high > shade.low ? (value - shade.low) / (shade.high - shade.low) : 1);
}

// The scale's colour at a share of its range.
function scaled(share) {
  const stops = SCALES[palette.dark ? "dark" : "light"];
  const place = clamp(share, 0, 1) * (stops.length - 1);
  const below = Math.min(stops.length - 2, Math.floor(place));
  const mix = place - below;
  const [from, to] = [stops[below], stops[below + 1]].map((hex) =>
    [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)),
  );
  return `rgb(${from.map((part, i) => Math.round(part + mix * (to[i] - part))).join(" ")})`;
}

// Makes a canvas as sharp as the screen; returns its context, scaled to CSS pixels, and its size in them.
function prepared(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

// Text as one line of at most `width` pixels.
function fitted(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  let [low, high] = [0, text.length];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (context.measureText(`${text.slice(0, middle)}\u2026`).width <= width) low = middle;
    else high = middle - 1;
  }
  return low ? `${text.slice(0, low).trimEnd()}\u2026` : "";
}

// Text as at most `count` lines, broken between words where that is possible.
function wrapped(context, text, width, count) {
  const lines = [];
  let rest = text;
  while (rest && lines.length < count - 1) {
    let line = fitted(context, rest.slice(0, 400), width);
    if (line === rest) break;
    line = line.replace(/\u2026$/, "");
    const space = rest[line.length] === " " ? line.length : line.lastIndexOf(" ");
    const cut = space > line.length / 2 ? space : Math.max(1, line.length);
    lines.push(rest.slice(0, cut));
    rest = rest.slice(cut).trimStart();
  }
  if (rest) lines.push(fitted(context, rest.slice(0, 400), width));
  return lines;
}

// What of a text fits a card: white space as spaces.
function flat(text) {
  return text.slice(0, 2000).split(/\s+/).join(" ").trim();
}
