// Runs before Gradio: it reads navigator.language once, as it starts. "zh" alone would give English there.
(() => {
  const language = window.pageLanguage;
  Object.defineProperty(navigator, "language", { get: () => (language === "zh" ? "zh-CN" : "en") });
  Object.defineProperty(navigator, "languages", { get: () => [language === "zh" ? "zh-CN" : "en"] });
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  // The server writes its sentences in the language of this cookie. A choice is kept for a year, a default for a visit.
  const remember = (value, seconds) => {
    const age = seconds ? `; max-age=${seconds}` : "";
    document.cookie = `${window.languageCookie}=${value}; path=/; samesite=lax${age}`;
  };
  if (!document.cookie.includes(`${window.languageCookie}=`)) remember(language);
  // Sends the operator key; returns why it was refused, or opens the page anew with what is open now.
  window.useKey = async (key) => {
    const answer = await fetch("operator-key", { method: "POST", body: new URLSearchParams({ key }) });
    if (answer.ok) return void location.reload();
    return (await answer.json()).detail;
  };
  window.signOut = async () => {
    await fetch("sign-out", { method: "POST" });
    location.reload();
  };
  // A link with the key, as it is printed at the start. What follows the # is taken out of the address at once.
  const invited = location.hash.match(/^#key=([\w-]+)$/);
  if (invited) {
    history.replaceState(null, "", location.pathname + location.search);
    window.useKey(invited[1]).then((problem) => problem && alert(problem));
  }
  window.switchLanguage = () => {
    remember(language === "zh" ? "en" : "zh", 31536000);
    location.reload();
  };
  // The choice of light or dark outlives a reload; without one the page follows the system, as Gradio does.
  const theme = localStorage.getItem("chatglm-theme");
  const applyTheme = (dark) => document.body.classList.toggle("dark", dark);
  window.switchTheme = () => {
    const dark = !document.body.classList.contains("dark");
    localStorage.setItem("chatglm-theme", dark ? "dark" : "light");
    applyTheme(dark);
  };
  if (theme) {
    const url = new URL(location.href);
    if (url.searchParams.get("__theme") !== theme) {
      url.searchParams.set("__theme", theme);
      history.replaceState(null, "", url);
    }
  }
})();
