// Makes pages faster to use. Every page works without it: links are links and forms are forms.
(() => {
  "use strict";
  const root = document.documentElement;
  const $ = (selector, within = document) => within.querySelector(selector);
  const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];

  // -- theme
  const isDark = () =>
    root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const switchTheme = () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    localStorage.setItem("theme", root.dataset.theme);
  };
  $("[data-theme-switch]")?.addEventListener("click", switchTheme);

  // -- on a phone the pages are in one row: the present one is scrolled into view
  const current = $(".side [aria-current]");
  const bar = $(".side");
  if (current && bar.scrollWidth > bar.clientWidth) bar.scrollLeft = current.offsetLeft - bar.clientWidth / 3;

  // -- times: relative, or as a date in UTC or in the local zone; the other form is the title
  const choice = $("[data-times]");
  const zone = { timeZoneName: "short", year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit" };
  const local = new Intl.DateTimeFormat("sv-SE", zone);
  const paintTimes = () => {
    const shown = choice?.value ?? "relative";
    $$("time[datetime]").forEach((time) => {
      time.dataset.relative ??= time.textContent;
      time.dataset.utc ??= time.title;
      const absolute = shown === "local" ? local.format(new Date(time.dateTime)) : time.dataset.utc;
      time.textContent = shown === "relative" ? time.dataset.relative : absolute;
      time.title = shown === "relative" ? time.dataset.utc : time.dataset.relative;
    });
  };
  if (choice) {
    choice.value = localStorage.getItem("times") ?? "relative";
    choice.addEventListener("change", () => {
      localStorage.setItem("times", choice.value);
      paintTimes();
    });
    if (choice.value !== "relative") paintTimes();
  }

  // -- copying; also without the clipboard API, which plain HTTP does not have
  const copy = async (text, button) => {
    if (navigator.clipboard && window.isSecureContext) await navigator.clipboard.writeText(text);
    else {
      const field = document.createElement("textarea");
      field.value = text;
      field.className = "hidden";
      document.body.append(field);
      field.select();
      document.execCommand("copy");
      field.remove();
    }
    button.dataset.label ??= button.textContent;
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = button.dataset.label), 1500);
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy], [data-copy-from]");
    if (button) copy(button.dataset.copy ?? $(button.dataset.copyFrom).textContent, button);
  });

  // -- on a phone each row is a card, and each cell shows the name of its column
  $$("table").forEach((table) => {
    const names = $$("thead th", table).map((cell) => cell.textContent);
    $$("tbody tr", table).forEach((row) =>
      $$("td", row).forEach((cell, at) => names[at] && (cell.dataset.label = names[at])),
    );
  });

  // -- folding kinds of a timeline, and widths of a preview
  $$("[data-fold]").forEach((box) =>
    box.addEventListener("change", () =>
      $$(`[data-kind="${box.dataset.fold}"]`).forEach((item) => (item.hidden = !box.checked)),
    ),
  );
  $$("[data-widths] input").forEach((choice) =>
    choice.addEventListener("change", () => ($("iframe.mail").className = `mail w${choice.value}`)),
  );

  // -- new events: one stream for all pages of this browser, since it opens only six connections to a host. The page that
  // holds the lock passes what it hears on. Hidden and paused pages hold nothing.
  const place = $("[data-live]");
  if (place) {
    const pill = $("[data-pill]", place);
    const pauser = $("[data-pause]");
    const channel = new BroadcastChannel("live");
    let count = 0;
    let leave = null;
    let isPaused = sessionStorage.getItem("paused") === "yes";
    const add = (fresh) => {
      count += fresh;
      pill.hidden = count === 0;
      pill.textContent = `${count} new`;
    };
    const listen = (signal) =>
      new Promise((done) => {
        let last = 0;
        const stream = new EventSource("/live");
        stream.onmessage = (message) => {
          const now = JSON.parse(message.data).new;
          const fresh = now < last ? now : now - last; // a new connection counts from 0
          last = now;
          if (fresh === 0) return;
          add(fresh);
          channel.postMessage(fresh);
        };
        signal.addEventListener("abort", () => {
          stream.close();
          done();
        });
      });
    const open = () => {
      if (leave || isPaused || document.hidden) return;
      const quit = new AbortController();
      leave = () => quit.abort();
      if (navigator.locks) navigator.locks.request("live", { signal: quit.signal }, () => listen(quit.signal)).catch(() => {});
      else listen(quit.signal);
    };
    const close = () => {
      leave?.();
      leave = null;
    };
    channel.onmessage = (message) => {
      if (!isPaused) add(message.data);
    };
    const paint = () => {
      pauser.setAttribute("aria-pressed", String(isPaused));
      pauser.textContent = isPaused ? "Continue" : "Pause";
    };
    pauser.addEventListener("click", () => {
      isPaused = !isPaused;
      sessionStorage.setItem("paused", isPaused ? "yes" : "no");
      paint();
      if (isPaused) close();
      else open();
    });
    document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
    addEventListener("pagehide", close);
    addEventListener("pageshow", open);
    paint();
    open();
  }

  // -- the progress of a job
  const poll = async () => {
    const part = $("[data-poll]");
    if (!part) return;
    if (!document.hidden) {
      try {
        const answer = await fetch(location.href, { headers: { Accept: "text/html" }, redirect: "manual" });
        if (answer.type === "opaqueredirect") return location.reload(); // the session has ended: sign in, and return here
        if (answer.ok) {
          const page = new DOMParser().parseFromString(await answer.text(), "text/html");
          const focused = document.activeElement?.value;
          part.replaceWith($("#progress", page));
          paintTimes();
          if (focused) $(`#progress [value="${CSS.escape(focused)}"]`)?.focus();
        }
      } catch {
        // the next try may succeed; the page keeps what it shows
      }
    }
    setTimeout(poll, 1500);
  };
  setTimeout(poll, 1500);

  // -- keys
  const keys = $("#keys");
  const off = $("[data-keys-off]");
  if (off) {
    off.checked = localStorage.getItem("keys") === "off";
    off.addEventListener("change", () => localStorage.setItem("keys", off.checked ? "off" : "on"));
  }
  $("[data-keys]")?.addEventListener("click", (event) => {
    event.preventDefault();
    keys.showModal();
  });
  const rows = () => $$("[data-row]").map((row) => $("a", row)).filter(Boolean);
  const move = (step) => {
    const links = rows();
    const row = document.activeElement?.closest("[data-row]");
    const at = row ? links.findIndex((link) => row.contains(link)) : -1;
    const next = links[Math.min(Math.max(at + step, 0), links.length - 1)];
    next?.focus();
    next?.scrollIntoView({ block: "nearest" });
  };
  let goes = 0;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const field = event.target.closest("input, textarea, select");
    if (field) {
      if (event.key === "Escape") field.blur();
      return;
    }
    if (event.key === "?") return keys.open ? keys.close() : keys.showModal();
    if (keys?.open || off?.checked) return;
    if (Date.now() - goes < 1500) {
      goes = 0;
      $(`[data-go="${CSS.escape(event.key)}"]`)?.click();
      return;
    }
    const act = {
      "/": () => $("#q").focus(),
      g: () => (goes = Date.now()),
      j: () => move(1),
      k: () => move(-1),
      r: () => $("[data-pause]")?.click(),
      t: switchTheme,
      Escape: () => history.back(),
    }[event.key];
    if (act) {
      event.preventDefault();
      act();
    }
  });
})();
