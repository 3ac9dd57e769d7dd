// Elements from code. Every text becomes a text node, so nothing that a program has logged is ever markup.

const SVG = "http://www.w3.org/2000/svg";

/** h("button.small", {onclick: f, "aria-label": "Zoom"}, "text", [more]) */
export function h(what, ...rest) {
  return made((tag) => document.createElement(tag), what, rest);
}

/** The same for parts of a drawing. */
export function s(what, ...rest) {
  return made((tag) => document.createElementNS(SVG, tag), what, rest);
}

function made(create, what, rest) {
  const [tag, ...classes] = what.split(".");
  const element = create(tag);
  if (classes.length) element.setAttribute("class", classes.join(" "));
  const first = rest[0];
  const plain = first && typeof first === "object" && !(first instanceof Node) && !Array.isArray(first);
  if (plain) set(element, rest.shift());
  element.append(...rest.flat(9).filter((each) => each !== null && each !== undefined && each !== false));
  return element;
}

function set(element, given) {
  for (const [name, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class")
      element.setAttribute("class", `${element.getAttribute("class") ?? ""} ${value}`.trim());
    else if (name === "value" || name === "checked" || name === "disabled") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
}

/** Replaces what an element holds; who was on a button or link there is on its successor then. */
export function fill(element, ...children) {
  const wanted = children.flat(9).filter((each) => each !== null && each !== undefined && each !== false);
  keepingFocus(element, () => element.replaceChildren(...wanted));
  return element;
}

/** Draws anew inside of an element without taking a keyboard's place away. */
export function keepingFocus(element, draw) {
  const all = () => [...element.querySelectorAll("a, button, input, select, summary, [tabindex]")];
  const held = document.activeElement;
  const at = element.contains(held) ? all().indexOf(held) : -1;
  draw();
  if (at < 0 || held.isConnected) return;
  const name = (each) => `${each.tagName} ${each.getAttribute("aria-label") ?? each.textContent}`;
  const same = all().filter((each) => name(each) === name(held));
  (same.find((each) => all().indexOf(each) >= at) ?? same.at(-1))?.focus({ preventScroll: true });
}

/** A row of exclusive buttons; `change` gets the value. */
export function choice(label, options, value, change) {
  const name = `choice-${(choice.count = (choice.count ?? 0) + 1)}`;
  return h(
    "fieldset.choice",
    h("legend", label),
    options.map(([key, text]) =>
      h(
        "label",
        h("input", { type: "radio", name, value: key, checked: key === value, onchange: () => change(key) }),
        h("span", text),
      ),
    ),
  );
}

/** Calls `action` once it has not been asked for `ms`. */
export function settled(action, ms) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...given), ms);
  };
}

/** A drop-down. */
export function select(label, options, value, change) {
  return h(
    "label.field",
    h("span", label),
    h(
      "select",
      { onchange: (event) => change(event.target.value) },
      options.map(([key, text]) => h("option", { value: key, selected: key === value }, text)),
    ),
  );
}
