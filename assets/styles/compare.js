// Runs once, after page.js: how Compare's panes scroll, and its drawers.
() => {
  const chats = ["left", "right"].map((name) => document.getElementById(`${name}-chat`)).filter(Boolean);
  const areaOf = (chat) => chat.querySelector("[role=log]");
  const followed = new Set(chats);
  const moved = new WeakMap(); // where we scrolled an area to ourselves: the event that follows is not its reader's
  const scrollTo = (area, top) => {
    const before = area.scrollTop;
    area.scrollTop = top;
    if (area.scrollTop !== before) moved.set(area, area.scrollTop);
  };

  // A chat follows what is being answered while its end is in sight, and goes there for a new question.
  const toEnd = (chat) => {
    const area = areaOf(chat);
    if (area) scrollTo(area, area.scrollHeight);
  };
  for (const chat of chats) {
    let asked = 0;
    new MutationObserver(() => {
      const questions = chat.querySelectorAll("[data-testid=user]").length;
      if (followed.has(chat) || questions > asked) toEnd(chat);
      asked = questions;
    }).observe(chat, { childList: true, subtree: true, characterData: true });
  }
  // Of a long conversation only the last rounds are shown, so that a new question does not make them more.
  const onSend = () => chats.forEach((chat) => followed.add(chat));
  document.addEventListener("click", (event) => event.target.closest?.("#send, #examples button") && onSend());
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && event.target.closest?.("#message")) onSend();
  });

  // Both chats at the same place of the same round, however long its answers are.
  let together = true;
  window.lookAt = (isTogether, isBlind) => {
    together = isTogether;
    document.getElementById("panes").classList.toggle("blind", isBlind); // the heads would say who answers where
  };
  const placesIn = (area) => {
    const end = area.scrollHeight - area.clientHeight;
    const top = area.getBoundingClientRect().top - area.scrollTop;
    const questions = [...area.querySelectorAll("[data-testid=user]")];
    return [0, ...questions.map((question) => Math.min(question.getBoundingClientRect().top - top, end)), end];
  };
  const scrollInStep = (from, to) => {
    let [here, there] = [placesIn(from), placesIn(to)];
    if (here.length !== there.length) [here, there] = [[0, here.at(-1)], [0, there.at(-1)]];
    const next = here.findIndex((place) => place > from.scrollTop);
    if (next < 1) return scrollTo(to, next < 0 ? there.at(-1) : 0);
    const share = (from.scrollTop - here[next - 1]) / (here[next] - here[next - 1]);
    scrollTo(to, there[next - 1] + share * (there[next] - there[next - 1]));
  };
  for (const chat of chats)
    chat.addEventListener(
      "scroll",
      (event) => {
        const area = areaOf(chat);
        if (event.target !== area) return;
        const isAtEnd = area.scrollHeight - area.scrollTop - area.clientHeight < 60;
        followed[isAtEnd ? "add" : "delete"](chat);
        const isOurs = Math.abs(area.scrollTop - (moved.get(area) ?? -9)) < 2;
        moved.delete(area);
        if (isOurs || !together) return;
        for (const other of chats) if (other !== chat && areaOf(other)) scrollInStep(area, areaOf(other));
      },
      true,
    );

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
      const isOpen = drawer.classList.contains("open");
      if (openerOf(drawer).contains(event.target)) {
        toggle(drawer, !isOpen);
        if (!isOpen) drawer.querySelector("button, input, textarea")?.focus();
      } else if (isOpen && event.target.isConnected && !event.target.closest(".drawer.open, .question")) {
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
}
