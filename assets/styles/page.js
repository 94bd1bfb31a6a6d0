// Runs once, when the page has loaded.
() => {
  // A message is shown with its Markdown escaped; whoever edits or copies it gets what was written.
  const decode = (text) => new DOMParser().parseFromString(text, "text/html").documentElement.textContent;
  // Code and formulas are not escaped (app/views/rendering.py), so what looks like an entity there was written so.
  const KEPT_OR_ENTITY =
    /(^```[^]*?(?:^```[ \t]*$|(?![^]))|(?<!`)(?<ticks>`+)(?!`)[^\n]+?(?<!`)\k<ticks>(?!`)|\$\$[^]+?\$\$|\\\[[^]+?\\\]|\\\([^]+?\\\))|&(?:#\d{2,3}|amp|lt);/gm;
  const SOURCE = /^<div class="answer-source" title="[^"]*"><\/div>\n\n/; // written above a reply by app/views/chat_view.py
  // With differences marked there is no Markdown: all of it is escaped, and lines end as they do in HTML.
  const unmarked = (text) => text.replace(/<br>/g, "\n").replace(/<[^>]*>/g, "").replace(/&#?\w+;/g, decode);
  const asWritten = (text) => {
    const reply = text.replace(SOURCE, "");
    if (reply.startsWith('<div class="differing">')) return unmarked(reply);
    return reply.replace(KEPT_OR_ENTITY, (piece, kept) => kept ?? decode(piece));
  };
  let copiesMessage = false; // and not a block of code
  document.addEventListener(
    "click",
    (event) => {
      copiesMessage = Boolean(event.target.closest?.(".pane .message-buttons"));
    },
    true,
  );
  if (navigator.clipboard) {
    const write = navigator.clipboard.writeText.bind(navigator.clipboard);
    navigator.clipboard.writeText = (text) => write(copiesMessage ? asWritten(text) : text);
  }
  // Without HTTPS there is no clipboard; Gradio then copies out of a text area that it adds to the page for a moment.
  document.addEventListener("copy", (event) => {
    const area = event.target;
    if (!copiesMessage || area.tagName !== "TEXTAREA" || area.parentElement !== document.body) return;
    event.clipboardData.setData("text/plain", asWritten(area.value));
    event.preventDefault();
  });
  const unescapeEditor = (area) => {
    const text = asWritten(area.value);
    if (text === area.value) return;
    area.value = text;
    area.dispatchEvent(new Event("input", { bubbles: true }));
  };
  new MutationObserver((changes) => {
    for (const change of changes)
      for (const node of change.addedNodes)
        if (node.querySelectorAll && node.closest(".pane"))
          for (const area of [node, ...node.querySelectorAll("textarea")])
            if (area.tagName === "TEXTAREA") setTimeout(() => unescapeEditor(area));
  }).observe(document.body, { childList: true, subtree: true });

  // Shows the settings whose topic, label or explanation has every word of ``text``.
  const findSetting = (text) => {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const has = (element) => words.every((word) => element.textContent.toLowerCase().includes(word));
    for (const topic of document.querySelectorAll("#more-settings .topic")) {
      const whole = has(topic.querySelector("h3"));
      const settings = [...topic.querySelectorAll("[id^=setting-]")];
      for (const setting of settings) setting.classList.toggle("not-found", !whole && !has(setting));
      topic.classList.toggle("not-found", settings.every((setting) => setting.classList.contains("not-found")));
    }
  };

  document.addEventListener("input", (event) => {
    if (event.target.closest("#find-setting")) findSetting(event.target.value);
  });

  window.saveExport = (file) => {
    if (!file) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([file.page], { type: file.type }));
    link.download = file.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
}
