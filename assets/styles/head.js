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
