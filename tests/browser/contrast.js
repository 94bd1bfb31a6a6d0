// Every piece of text that can be seen now, whose contrast with what lies behind it is below `least`.
(least) => {
  const parse = (colour) => {
    const numbers = colour.match(/[\d.]+(?:e-?\d+)?/g)?.map(Number) ?? [0, 0, 0, 0];
    const [r, g, b, a = 1] = numbers;
    return colour.startsWith("color(srgb") ? [r * 255, g * 255, b * 255, a] : [r, g, b, a];
  };
  const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a)];
  const backdrop = (element) => {
    const layers = [];
    for (let node = element; node; node = node.parentElement) {
      const layer = parse(getComputedStyle(node).backgroundColor);
      if (layer[3] > 0) layers.push(layer);
      if (layer[3] === 1) break;
    }
    return layers.reduceRight((below, layer) => over(layer, below), [255, 255, 255]);
  };
  const luminance = (colour) => {
    const [r, g, b] = colour.map((part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const opacity = (element) => {
    let product = 1;
    for (let node = element; node; node = node.parentElement) product *= Number(getComputedStyle(node).opacity);
    return product;
  };
  const contrast = (element, style, property) => {
    const behind = backdrop(element);
    const [r, g, b, a] = parse(style[property]);
    const front = over([r, g, b, a * opacity(element)], behind);
    const [high, low] = [luminance(front), luminance(behind)].sort((one, other) => other - one);
    return (high + 0.05) / (low + 0.05);
  };
  const seen = (element) => element.checkVisibility({ visibilityProperty: true, opacityProperty: true });
  const complaints = new Map();
  let measured = 0;
  const note = (text, element, style, property) => {
    measured += 1;
    const ratio = contrast(element, style, property);
    if (ratio < least) complaints.set(`${ratio.toFixed(2)} ${element.tagName} ${element.className}`, text.slice(0, 40));
  };
  const walker = document.createTreeWalker(document.querySelector(".gradio-container"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim();
    const element = walker.currentNode.parentElement;
    if (!text || !seen(element) || element.closest("script, style, title")) continue;
    note(text, element, getComputedStyle(element), element.closest("svg") ? "fill" : "color");
  }
  for (const field of document.querySelectorAll("input, textarea")) {
    if (!seen(field) || ["radio", "checkbox", "range", "file"].includes(field.type)) continue;
    if (field.value) note(field.value, field, getComputedStyle(field), "color");
    else if (field.placeholder) note(field.placeholder, field, getComputedStyle(field, "::placeholder"), "color");
  }
  return { measured, complaints: [...complaints].map(([where, text]) => `${where}: ${text}`) };
}
