// Runs once, when the page has loaded: what a keyboard, a screen reader and a thumb need beyond what Gradio builds.
() => {
  const chinese = document.documentElement.lang.startsWith("zh");
  const language = chinese ? "zh" : "en";

  // Labels that Gradio has in English only, and those of the two logs, which it gives the same name.
  const LABELS = {
    "Copy message": "复制消息",
    "Message copied": "已复制",
    Retry: "重新回答",
    Edit: "修改",
    Undo: "撤回",
    Submit: "提交",
    Cancel: "取消",
    "Scroll to bottom": "到最后",
    "Copy code": "复制代码",
    "Copied!": "已复制",
    Clear: "清除",
    Remove: "移除",
    "Remove this file": "移除此文件",
  };
  const LOGS = {
    "left-chat": { en: "Answers of the left pane", zh: "左栏的回答" },
    "right-chat": { en: "Answers of the right pane", zh: "右栏的回答" },
  };
  const set = (element, name, value) => {
    if (element.getAttribute(name) !== value) element.setAttribute(name, value);
  };
  const translate = (element) => {
    for (const name of ["aria-label", "title"]) {
      const known = LABELS[element.getAttribute(name)];
      if (known) element.setAttribute(name, known);
    }
  };
  const nameLogs = () => {
    for (const [id, names] of Object.entries(LOGS)) {
      const log = document.querySelector(`#${id} [role=log]`);
      if (log) set(log, "aria-label", names[language]);
    }
  };

  // Tabs: the one that is shown can be reached by Tab; arrows, Home and End go to the others.
  const tabs = () => [...document.querySelectorAll("#tabs > .tab-wrapper [role=tab]")].filter((tab) => tab.checkVisibility());
  const roam = () => {
    for (const tab of tabs()) set(tab, "tabindex", tab.getAttribute("aria-selected") === "true" ? "0" : "-1");
  };
  document.addEventListener("keydown", (event) => {
    const all = tabs();
    const here = all.indexOf(event.target);
    const steps = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: all.length - 1 };
    if (here < 0 || !(event.key in steps)) return;
    event.preventDefault();
    const next = all[(steps[event.key] + all.length) % all.length];
    next.click();
    next.focus();
  });

  // On a phone one pane is seen: two buttons and a swipe lead to the other, and both chats stand at the same round.
  const panes = document.getElementById("panes");
  const strip = document.createElement("div");
  strip.id = "pane-switch";
  strip.setAttribute("role", "group");
  strip.setAttribute("aria-label", chinese ? "显示哪一栏" : "Pane to show");
  const sides = ["left", "right"];
  const shown = () => (panes.scrollLeft > (panes.scrollWidth - panes.clientWidth) / 2 ? 1 : 0);
  const area = (side) => document.querySelector(`#${side}-chat [role=log]`);
  const inStep = (from, to) => {
    const [one, other] = [area(sides[from]), area(sides[to])];
    if (!one || !other) return;
    const share = one.scrollTop / Math.max(1, one.scrollHeight - one.clientHeight);
    other.scrollTop = share * (other.scrollHeight - other.clientHeight);
  };
  const buttons = sides.map((side, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = { left: chinese ? "左栏" : "Left", right: chinese ? "右栏" : "Right" }[side];
    button.addEventListener("click", () => {
      inStep(1 - index, index);
      panes.scrollTo({ left: index ? panes.scrollWidth : 0, behavior: "smooth" });
    });
    strip.append(button);
    return button;
  });
  let before = 0;
  const mark = () => {
    const now = shown();
    buttons.forEach((button, index) => set(button, "aria-pressed", String(index === now)));
    if (now !== before) inStep(before, now);
    before = now;
  };
  if (panes) {
    panes.before(strip);
    panes.addEventListener("scroll", mark, { passive: true });
    mark();
  }

  let waiting = false;
  const tidy = () => {
    waiting = false;
    nameLogs();
    roam();
    if (!chinese) return;
    for (const element of document.querySelectorAll("button[aria-label], button[title], [role=button][title]"))
      translate(element);
  };
  const later = () => {
    if (waiting) return;
    waiting = true;
    setTimeout(tidy, 100);
  };
  new MutationObserver(later).observe(document.body, {
    childList: true,
    subtree: true,
    attributes: true,
    attributeFilter: ["aria-selected", "aria-label", "title"],
  });
  tidy();
}
