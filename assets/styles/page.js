// Runs once, when the page has loaded.
() => {
  // A message is shown with its Markdown escaped; whoever edits or copies it gets what was written.
  const decode = (text) => new DOMParser().parseFromString(text, "text/html").documentElement.textContent;
  // Code and formulas are not escaped (app/views/rendering.py), so what looks like an entity there was written so.
  const KEPT_OR_ENTITY =
    /(^```[^]*?(?:^```[ \t]*$|(?![^]))|(?<!`)(?<ticks>`+)(?!`)[^\n]+?(?<!`)\k<ticks>(?!`)|\$\$[^]+?\$\$|\\\[[^]+?\\\]|\\\([^]+?\\\))|&(?:#\d{2,3}|amp|lt);/gm;
  const SOURCE = /^<div class="answer-source" title="[^"]*"><\/div>\n\n/; // written above a reply by app/views/chat_view.py
  const asWritten = (text) => text.replace(SOURCE, "").replace(KEPT_OR_ENTITY, (piece, kept) => kept ?? decode(piece));
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
    if (!area.value.includes("&#")) return;
    area.value = area.value.replace(/&#\d+;/g, decode);
    area.dispatchEvent(new Event("input", { bubbles: true }));
  };
  new MutationObserver((changes) => {
    for (const change of changes)
      for (const node of change.addedNodes)
        if (node.querySelectorAll && node.closest(".pane"))
          for (const area of [node, ...node.querySelectorAll("textarea")])
            if (area.tagName === "TEXTAREA") setTimeout(() => unescapeEditor(area));
  }).observe(document.body, { childList: true, subtree: true });

  // A chat follows what is being answered while its end is in sight, and goes there for a new question.
  const follow = (chat) => {
    const log = () => chat.querySelector("[role=log]");
    let follows = true;
    let asked = 0;
    chat.addEventListener("scroll", (event) => {
      const area = event.target;
      if (area === log()) follows = area.scrollHeight - area.scrollTop - area.clientHeight < 60;
    }, true);
    new MutationObserver(() => {
      const area = log();
      if (!area) return;
      const questions = area.querySelectorAll("[data-testid=user]").length;
      if (follows || questions > asked) area.scrollTop = area.scrollHeight;
      asked = questions;
    }).observe(chat, { childList: true, subtree: true, characterData: true });
  };
  for (const name of ["left", "right"]) {
    const chat = document.getElementById(`${name}-chat`);
    if (chat) follow(chat);
  }

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

  // A drawer opens at the button that is named for it, and closes on Escape, on a click beside it, or at its button.
  const drawers = [...document.querySelectorAll(".drawer")];
  const openerOf = (drawer) => document.getElementById(`to-${drawer.id}`);
  const toggle = (drawer, opens) => {
    drawer.classList.toggle("open", opens);
    openerOf(drawer).setAttribute("aria-expanded", opens);
    const room = innerHeight - openerOf(drawer).getBoundingClientRect().top + 8;
    document.documentElement.style.setProperty("--drawer-bottom", `${Math.max(12, room)}px`);
  };
  for (const drawer of drawers) {
    openerOf(drawer).setAttribute("aria-controls", drawer.id);
    toggle(drawer, false);
  }
  document.addEventListener("click", (event) => {
    for (const drawer of drawers) {
      const opened = drawer.classList.contains("open");
      if (openerOf(drawer).contains(event.target)) {
        toggle(drawer, !opened);
        if (!opened) drawer.querySelector("button, input, textarea")?.focus();
      } else if (opened && event.target.isConnected && !event.target.closest(".drawer.open, .question")) {
        toggle(drawer, false);
      }
    }
  });
  document.addEventListener("keydown", (event) => {
    const drawer = event.key === "Escape" && drawers.find((one) => one.classList.contains("open"));
    if (!drawer) return;
    toggle(drawer, false);
    openerOf(drawer).focus();
  });

  // The text of a file that a person chooses; nothing where they change their mind.
  window.readTextFile = (accepted) =>
    new Promise((resolve) => {
      const input = Object.assign(document.createElement("input"), { type: "file", accept: accepted });
      input.addEventListener("change", () => input.files[0].slice(0, 2_000_000).text().then(resolve));
      input.addEventListener("cancel", () => resolve(null));
      input.click();
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
