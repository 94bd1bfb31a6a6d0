// Runs once, when the page has loaded.
() => {
  // A message is shown with its Markdown escaped; whoever edits it gets to see what was typed.
  const decode = (text) => new DOMParser().parseFromString(text, "text/html").documentElement.textContent;
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

  window.saveExport = (file) => {
    if (!file) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([file.page], { type: "text/html" }));
    link.download = file.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
}
