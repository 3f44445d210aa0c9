// Makes a tree of elements equal to another one with few changes: focus, selections, open details and what a user has
// typed stay.

export function morph(from, to) {
  if (from.nodeType !== to.nodeType || from.nodeName !== to.nodeName) {
    from.replaceWith(to);
    return;
  }
  if (from.nodeType !== Node.ELEMENT_NODE) {
    if (from.nodeValue !== to.nodeValue) from.nodeValue = to.nodeValue;
    return;
  }
  attributes(from, to);
  children(from, to);
}

function attributes(from, to) {
  const isInput = from.matches('input, select, textarea, option');
  for (const { name } of [...from.attributes]) {
    // The user opens details; the server does not know.
    const isKept = (name === 'open' && from.nodeName === 'DETAILS') || name === 'data-cursor';
    if (!to.hasAttribute(name) && !isKept) from.removeAttribute(name);
  }
  for (const { name, value } of [...to.attributes]) {
    if (isInput && (name === 'value' || name === 'selected' || name === 'checked')) continue;
    if (from.getAttribute(name) !== value) from.setAttribute(name, value);
  }
}

// Elements with an id are found again wherever they are; others are matched in order.
function children(from, to) {
  const known = new Map();
  for (const child of from.children) if (child.id) known.set(child.id, child);
  let at = skipOwn(from.firstChild);
  for (const wanted of [...to.childNodes]) {
    at = skipOwn(at);
    const id = wanted.nodeType === Node.ELEMENT_NODE ? wanted.id : '';
    const found = id ? known.get(id) : undefined;
    if (found && found.nodeName === wanted.nodeName) {
      if (found === at) at = at.nextSibling;
      else from.insertBefore(found, at);
      morph(found, wanted);
    } else if (at && !id && !at.id && at.nodeType === wanted.nodeType && at.nodeName === wanted.nodeName) {
      const next = at.nextSibling;
      morph(at, wanted);
      at = next;
    } else {
      from.insertBefore(wanted, at);
    }
  }
  for (at = skipOwn(at); at; ) {
    const next = skipOwn(at.nextSibling);
    at.remove();
    at = next;
  }
}

// Elements that the script has added have no counterpart.
function skipOwn(node) {
  while (node?.dataset && 'own' in node.dataset) node = node.nextSibling;
  return node;
}
