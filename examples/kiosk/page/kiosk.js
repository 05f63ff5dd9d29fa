/* The page of the kiosk: asks `device` for its readings, listens to what it announces, says what is wrong. */
"use strict";

const SILENCE = 5000; // the device announces every 2 s: after so long without, we ask
const LOADS = 60; // how many are drawn
const LOCALE = "en-GB"; // as the words of the page
const NOT_AVAILABLE = "not available";
const at = (id) => document.getElementById(id);
const bus = Daebus.connect({ timeout: 2000 });

let readings = {};
let heard = 0; // the time of day when the readings came
let lastAnswer = -SILENCE; // both in terms of a clock that nobody sets
let lastQuestion = 0;
let redisAway = false;
let problem = ""; // with the device, in words
let wasOpen = false;
const loads = [];

// --- what we know becomes what is seen ---

function draw() {
  const fahrenheit = at("fahrenheit").checked;
  const celsius = readings.temperature_celsius;
  const degrees = known(celsius) && fahrenheit ? celsius * 1.8 + 32 : celsius;
  value("load", number(readings.load, 2));
  value("temperature", number(degrees, 1, fahrenheit ? " °F" : " °C"));
  value("memory", number(readings.memory_percent, 0, " %"));
  value("disk", number(readings.disk_percent, 0, " %"));
  value("uptime", duration(readings.uptime_seconds));
  at("uptime-remark").textContent = since(readings.uptime_seconds);
  bar("memory", readings.memory_percent, readings.memory_total_gb);
  bar("disk", readings.disk_percent, readings.disk_total_gb);
}

function value(id, text) {
  at(id).textContent = text;
  at(id).classList.toggle("missing", text === NOT_AVAILABLE);
}

function bar(id, percent, gigabytes) {
  at(`${id}-bar`).setAttribute("width", `${Math.min(Math.max(percent || 0, 0), 100)}%`);
  at(`${id}-remark`).textContent = known(percent) && known(gigabytes) ? `of ${gigabytes.toFixed(1)} GB` : "";
}

/** The loads that came last, as a line from edge to edge. */
function trace() {
  const highest = Math.max(1, ...loads);
  const last = loads.length - 1 || 1;
  const points = loads.map((load, place) => `${place / last},${0.95 - (0.9 * load) / highest}`).join(" ");
  at("trace").setAttribute("points", points);
  at("trace-area").setAttribute("points", `0,1 ${points} 1,1`);
}

function known(reading) {
  return typeof reading === "number";
}

function number(reading, digits, unit = "") {
  return known(reading) ? reading.toFixed(digits) + unit : NOT_AVAILABLE;
}

/** The two biggest units: "3 d 4 h", "4 h 12 min", "12 min 5 s". */
function duration(seconds) {
  if (!known(seconds)) return NOT_AVAILABLE;
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]].map(([size, unit], place, all) => {
    const whole = place ? seconds % all[place - 1][0] : seconds;
    return [Math.floor(whole / size), unit];
  });
  while (parts.length > 2 && !parts[0][0]) parts.shift();
  return parts.slice(0, 2).map(([count, unit]) => `${count} ${unit}`).join(" ");
}

function since(seconds) {
  if (!known(seconds)) return "";
  const start = new Date(heard - seconds * 1000);
  return `since ${start.toLocaleString(LOCALE, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" })}`;
}

/** A screen reader reads the status aloud when it changes, so it changes only when the state does. */
function tell() {
  const [state, text] = situation();
  document.body.dataset.state = state;
  if (at("status").textContent !== text) at("status").textContent = text;
}

function situation() {
  if (bus.state !== "open" && !wasOpen) return ["wait", "Connecting to the panel"];
  if (bus.state !== "open") return ["trouble", "No connection to the panel. Trying again"];
  if (redisAway) return ["trouble", "The message bus (Redis) is away. Waiting for it"];
  if (problem) return ["trouble", problem];
  return heard ? ["live", "Live"] : ["wait", "Asking the device"];
}

// --- what comes in ---

function show(latest) {
  readings = latest;
  heard = Date.now();
  lastAnswer = performance.now();
  problem = "";
  if (known(latest.load)) loads.push(latest.load);
  loads.splice(0, loads.length - LOADS);
  at("time").textContent = `as of ${new Date(heard).toLocaleTimeString(LOCALE)}`;
  draw();
  trace();
  tell();
}

/** Asks the device. Gives what went wrong, in words, or "". */
async function ask() {
  lastQuestion = performance.now();
  try {
    show(await bus.call("device/readings"));
    return "";
  } catch (error) {
    const text = inWords(error);
    if (!["offline", "connection_lost", "redis_unavailable"].includes(error.code)) problem = text;
    tell();
    return text;
  }
}

function inWords(error) {
  switch (error.code) {
    case "unavailable":
      return "The service “device” is not running. Waiting for it";
    case "timeout":
      return "The service “device” does not answer. Asking again";
    case "offline":
    case "connection_lost":
      return "No connection to the panel";
    case "redis_unavailable":
      return "Redis is away";
    default:
      return `The service “device” answers: ${error.message}`;
  }
}

bus.subscribe("device.readings", show);
bus.on("resync", ask);
bus.on("open", () => {
  wasOpen = true;
  tell();
});
bus.on("close", tell);
bus.on("bus", (connected) => {
  redisAway = !connected;
  tell();
});
setInterval(() => {
  const now = performance.now();
  if (bus.state === "open" && !redisAway && now - lastAnswer > SILENCE && now - lastQuestion > 2000) ask();
}, 1000);

// --- what is touched ---

let fading;

at("refresh").addEventListener("click", async () => {
  const button = at("refresh");
  if (button.getAttribute("aria-disabled")) return; // one at a time; `disabled` would take the focus away
  button.setAttribute("aria-disabled", "true");
  const trouble = await ask();
  button.removeAttribute("aria-disabled");
  at("note").textContent = trouble ? `Not refreshed: ${trouble}` : "Refreshed";
  clearTimeout(fading);
  fading = setTimeout(() => at("note").replaceChildren(), 5000);
});

for (const id of ["celsius", "fahrenheit"]) {
  at(id).checked = remembered() === id;
  at(id).addEventListener("change", () => {
    remember(id);
    draw();
  });
}

/** The choice of °C or °F is kept, where the browser allows that. */
function remembered() {
  try {
    return localStorage.getItem("unit") || "celsius";
  } catch {
    return "celsius";
  }
}

function remember(unit) {
  try {
    localStorage.setItem("unit", unit);
  } catch {
    // then it holds until the page is closed
  }
}

ask();
