// What is drawn: crisp pictures, the fan of futures, running curves.

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const number = (value) => (value === null || value === undefined ? "–"
  : Math.abs(value) < 1e5 ? value.toFixed(Math.abs(value) < 10 ? 2 : Math.abs(value) < 1000 ? 1 : 0) : value.toExponential(1));

export { number };

// One picture, pixel by pixel: the style enlarges it.
export function picture(canvas, bitmap) {
  if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
    canvas.width = bitmap.width;
    canvas.height = bitmap.height;
    canvas.style.aspectRatio = `${bitmap.width} / ${bitmap.height}`;
  }
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
}

// A canvas in units of the page, sharp on every screen.
function sheet(canvas, height) {
  const width = canvas.clientWidth, ratio = window.devicePixelRatio || 1;
  if (height) canvas.style.height = `${height}px`;
  const tall = height || canvas.clientHeight;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(tall * ratio);
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.font = "12px system-ui, sans-serif";
  return [context, width, tall];
}

// The plan in the first row, large; below it what else was considered, from the best to the worst, with bars that show
// how much worse it is.
export function fan(canvas, message, bitmap, size) {
  const rows = message.returns.length, columns = message.steps.length, [, high, wide] = size, gap = 4;
  const left = 74, cell = Math.min((canvas.clientWidth - left) / columns, 76 * Math.max(1, wide / high));
  const small = Math.min(cell, Math.max(26, 0.66 * cell), 48 * Math.max(1, wide / high));
  const tall = (width) => (width - gap) * high / wide + gap;
  const [context, whole] = sheet(canvas, Math.round(16 + tall(cell) + 8 + (rows - 1) * tall(small)));
  const finite = message.returns.filter((value) => value !== null);
  const [low, top] = [Math.min(...finite), Math.max(...finite)];
  context.imageSmoothingEnabled = false;
  context.textBaseline = "middle";
  context.fillStyle = colour("--quiet");
  const every = Math.ceil(30 / cell); // of the numbers above, where there is little room
  message.steps.forEach((step, column) => {
    if (column % every === 0) context.fillText(`+${step}`, left + column * cell, 6);
  });
  let y = 16;
  for (let row = 0; row < rows; row++) {
    const width = row ? small : cell, value = message.returns[row], middle = y + (tall(width) - gap) / 2;
    const name = message.considered ? (row ? `#${message.ranks[row - 1]}` : "plan") : row ? `or ${row}` : "itself";
    context.fillStyle = row ? colour("--quiet") : colour("--plan");
    context.fillText(name, 0, row ? middle : middle - 9);
    context.fillStyle = colour("--ink");
    const bar = left + columns * small + 6, room = whole - bar - 58;
    if (row === 0) context.fillText(number(value), 0, middle + 9);
    else if (room > 40 && value !== null) {
      const length = top > low ? room * (value - low) / (top - low) : room;
      context.fillText(number(value), bar + Math.max(2, length) + 6, middle);
      context.fillStyle = colour("--quiet");
      context.globalAlpha = 0.55;
      context.fillRect(bar, middle - 5, Math.max(2, length), 10);
      context.globalAlpha = 1;
    } else context.fillText(number(value), 36, middle);
    for (let column = 0; column < columns; column++) {
      const [w, h] = [width - gap, tall(width) - gap];
      context.drawImage(bitmap, column * wide, row * high, wide, high, left + column * width, y, w, h);
      context.strokeStyle = colour("--line");
      context.lineWidth = 1;
      context.strokeRect(left + column * width + 0.5, y + 0.5, w - 1, h - 1);
    }
    if (row === 0) {
      context.strokeStyle = colour("--plan");
      context.lineWidth = 1.5;
      context.strokeRect(left - 2, y - 2, columns * cell - gap + 4, tall(cell) - gap + 4);
      y += 8;
    }
    y += tall(width);
  }
}

// Lines over steps. lines: [colour, [[x, y], ...]] each; what is null is not drawn. marks: where episodes begin.
export function curves(canvas, lines, marks, span) {
  const [context, width, height] = sheet(canvas);
  const last = Math.max(...lines.flatMap(([, points]) => points.slice(-1).map(([x]) => x)), 1);
  const begin = Math.max(0, last - span);
  const shown = lines.map(([name, points]) => [name, points.filter(([x, y]) => x >= begin && y !== null)]);
  const values = shown.flatMap(([, points]) => points.map(([, y]) => y));
  if (!values.length) return;
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (high - low < 1e-6) [low, high] = [low - 0.5, high + 0.5];
  const left = 44, place = (x, y) => [left + (width - left - 4) * (x - begin) / Math.max(1, last - begin),
    5 + (height - 10) * (high - y) / (high - low)];
  context.textBaseline = "middle";
  context.textAlign = "right";
  context.fillStyle = colour("--quiet");
  context.fillText(number(high), left - 6, 7);
  context.fillText(number(low), left - 6, height - 7);
  context.strokeStyle = colour("--line");
  context.lineWidth = 1;
  for (const x of [begin, ...marks.filter((mark) => mark > begin)]) {
    context.beginPath();
    context.moveTo(place(x, 0)[0], 0);
    context.lineTo(place(x, 0)[0], height);
    context.stroke();
  }
  context.lineWidth = 1.6;
  context.lineJoin = "round";
  for (const [name, points] of shown) {
    context.strokeStyle = context.fillStyle = colour(name);
    context.beginPath();
    points.forEach(([x, y], i) => {
      const broken = i === 0 || x - points[i - 1][0] > 12 || marks.some((mark) => mark > points[i - 1][0] && mark <= x);
      context[broken ? "moveTo" : "lineTo"](...place(x, y));
    });
    context.stroke();
    if (points.length) {
      context.beginPath();
      context.arc(...place(...points[points.length - 1]), 2.2, 0, 7);
      context.fill();
    }
  }
}
