  // Gradio says some things in English only: its place in line, and its notices. Here they get the visitor's words.
  const words = TEXTS[(navigator.language || "en").slice(0, 2)] || TEXTS.en;
  const WHERE = "[data-testid=status-tracker], .toast-wrap";
  const SAID = [
    [/^queue: (\d+)\/(\d*) \|$/, (found) => words.in_line.replace("{place}", found[1]).replace("{of}", found[2])],
    [/^processing \|$/, () => words.working],
    [/^\d[\d.\/]*s$/, () => ""], // the seconds beside it, and how many were expected
    [/^Error$/, () => words.error],
    [/exceed.* maximum allowed size of ([^:]+)/, (found) => words.too_big.replace("{most}", found[1].replace("b", "B"))],
    [/^Connection to the server was lost/, () => words.page_lost],
    [/^(Connection errored out|Failed to fetch|NetworkError|Load failed)/, () => words.not_sent],
    [/^An error occurred/, () => words.wrong],
  ];

  function mend(node) {
    if (node.nodeType !== Node.TEXT_NODE) return node.childNodes.forEach(mend);
    if (!node.parentElement || !node.parentElement.closest(WHERE)) return;
    const text = node.nodeValue.trim(), entry = SAID.find(([pattern]) => pattern.test(text));
    const ours = entry && entry[1](text.match(entry[0]));
    if (entry && ours !== text) node.nodeValue = ours; // what is written is noticed here again
  }

  new MutationObserver((changes) => {
    for (const { target, addedNodes } of changes) [target, ...addedNodes].forEach((node) => {
      if (node === target && node.nodeType !== Node.TEXT_NODE) return;
      mend(node);
    });
  }).observe(document.body, { childList: true, characterData: true, subtree: true });
  mend(document.body); // what was said before this began
