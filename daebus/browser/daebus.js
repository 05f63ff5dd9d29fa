/* One WebSocket that mends itself.
 * const bus = Daebus.connect()          options: {url: "/ws", token, timeout: 5000}
 * await bus.call("device/readings", payload, {timeout, onProgress})
 * await bus.publish("panel.touch", data)
 * await bus.send("type", data)          for @app.socket("type"); bus.request awaits its answer
 * stop = bus.subscribe("device.readings", (data, channel) => ...)
 * stop = bus.on("open" | "close" | "bus" | "resync" | "error" | "message:<type>", fn)
 * bus.state: "connecting", "open" or "closed"; bus.close() ends it
 * Times: milliseconds. Errors have a code: the service's, or "offline" (not sent), "connection_lost"
 * (may have run), "timeout", "closed". "resync": messages may have been missed, so ask anew. */
"use strict";

globalThis.Daebus = globalThis.daebus = { connect: ({ url = "/ws", token, timeout: usual = 5000 } = {}) => {
	const address = new URL(url, location);
	address.protocol = address.protocol.replace("http", "ws");
	if (token) address.searchParams.set("token", token);

	const requests = new Map(); // by id
	const channels = new Map(); // sets of functions
	const listeners = new Map();
	const prefix = Math.random().toString(36).slice(2, 10);
	let count = 0;
	let state = "connecting";
	let socket = null; // none while waiting for the next attempt
	let retry;
	let failures = 0;
	let again = false; // it was open before
	let connected; // the server to its bus
	let heard = 0; // frames
	let heardBefore = 0; // at the last tick
	let ticked = Date.now();
	let missed = false; // messages, perhaps

	function guarded(fn) {
		return (...values) => {
			try {
				fn(...values);
			} catch (error) {
				reportError(error);
			}
		};
	}

	function enlist(map, name, fn) {
		const entry = guarded(fn);
		map.set(name, (map.get(name) ?? new Set()).add(entry));
		return entry;
	}

	function ask(frame, { timeout = usual, onProgress = () => {}, oneWay } = {}) {
		return new Promise((resolve, reject) => {
			frame = JSON.parse(JSON.stringify(frame)); // as it is now, whenever it is sent
			const id = `${prefix}-${++count}`;
			const request = { id, frame, oneWay, until: Date.now() + timeout, progress: guarded(onProgress) };
			request.settle = (code, value) => {
				clearTimeout(timer);
				requests.delete(id);
				if (code) reject(Object.assign(new Error(value), { code }));
				else resolve(value);
			};
			request.expire = () => request.settle(request.sent ? "timeout" : "offline", "Time is up");
			const timer = setTimeout(request.expire, Math.min(timeout, 2 ** 31 - 1));
			requests.set(id, request);
			transmit(request);
		});
	}

	function transmit(request) {
		const { id, frame, oneWay } = request;
		if (state === "closed") request.settle(state, "It is closed");
		if (request.sent || state !== "open") return;
		const timeout = (request.until - Date.now()) / 1000;
		if (timeout <= 0) return request.expire(); // the machine slept
		if (frame.type === "publish") Object.assign(frame.data, { request_id: id, timeout });
		else if (!oneWay) frame.request_id = id;
		request.sent = write(frame);
		if (request.sent && oneWay) request.settle();
	}

	function write(frame) {
		if (socket.readyState !== 1) return false; // it ends
		socket.send(JSON.stringify(frame));
		return true;
	}

	function receive(event) {
		heard++;
		failures = 0;
		const frame = JSON.parse(event.data);
		const { type, data, channel, request_id: id } = frame;
		const request = requests.get(id);
		if (type === "channel_message") deliver(channel, data);
		else if (type === "bus") report(frame.connected);
		else if (!id) emit("message:" + type, data ?? frame, frame);
		else if (!request) return; // too late
		else if (type === "progress") request.progress(data);
		else if (frame.success) request.settle(null, data);
		else request.settle(frame.code || "error", frame.error);
	}

	function deliver(channel, data) {
		for (const [name, fns] of [...channels]) {
			const glob = name.replace(/\W/g, (sign) => ({ "*": ".*", "?": "." })[sign] ?? "\\" + sign);
			if (RegExp(`^${glob}$`, "s").test(channel)) [...fns].forEach((fn) => fn(data, channel));
		}
	}

	function report(now) {
		const before = connected;
		connected = now;
		if (before !== now) emit("bus", now);
		if (state !== "open") return;
		if (before === false && now) restore();
		else if (missed) emit("resync");
		missed = false;
	}

	function emit(name, ...values) {
		const fns = [...(listeners.get(name) ?? [])];
		fns.forEach((fn) => fn(...values));
		return fns.length;
	}

	function open() {
		clearTimeout(retry);
		const mine = (socket = new WebSocket(address));
		setTimeout(() => state === "connecting" && lose(mine), 5000);
		mine.onopen = opened;
		mine.onmessage = receive;
		mine.onclose = () => lose(mine);
	}

	function opened() {
		state = "open";
		missed = false;
		probe();
		restore(); // before what waits is sent
		requests.forEach(transmit);
		emit("open");
	}

	async function restore() {
		const mine = socket;
		const resync = again;
		again = true;
		await Promise.all([...channels.keys()].map(join));
		if (resync && mine === socket) emit("resync");
	}

	async function join(channel) {
		const mine = socket;
		try {
			await ask({ type: "subscribe", channel });
		} catch (error) {
			if (mine !== socket) return; // the next connection tries again
			error.channel = channel;
			emit("error", error) || console.error(error);
		}
	}

	function probe() {
		const mine = socket;
		const before = heard;
		write({ type: "$daebus.hello" }); // answered by a frame "bus"
		setTimeout(() => heard === before && lose(mine), 3000);
	}

	function lose(mine) {
		if (mine !== socket) return;
		const wasOpen = state === "open";
		drop("connecting", "connection_lost");
		const longest = Math.min(5000, 500 * 2 ** failures++);
		retry = setTimeout(open, 250 + Math.random() * (longest - 250));
		if (wasOpen) emit("close");
	}

	function drop(next, code) {
		state = next;
		socket?.close(); // from now on it is silent
		socket = null;
		connected = undefined;
		for (const request of [...requests.values()])
			if (request.sent || code === "closed") request.settle(code, "The connection has ended");
	}

	function wake() {
		missed = true;
		if (state === "open") probe();
		else if (!socket) open();
	}

	const ticking = setInterval(() => {
		const gap = Date.now() - ticked;
		ticked += gap;
		if (gap > 10000 && !document.hidden) wake(); // the machine slept (hidden pages tick slowly)
		else if (heard === heardBefore && state === "open") probe();
		heardBefore = heard;
	}, 2500);
	const end = new AbortController();
	addEventListener("online", wake, end);
	addEventListener("pageshow", (event) => event.persisted && wake(), end);
	document.addEventListener("visibilitychange", () => document.hidden || wake(), end);
	open();

	return {
		get state() {
			return state;
		},

		async call(target, payload = {}, options) {
			const [, service = "", action] = target.match(/^(?:([^/]*)\/)?(.*)$/s);
			const data = { action, payload, timestamp: Date.now() };
			return ask({ type: "publish", channel: service, data }, options);
		},

		async publish(channel, data = {}, options) {
			return ask({ type: "broadcast", channel, data }, options);
		},

		async request(type, data = {}, options) {
			return ask({ type, data }, options);
		},

		async send(type, data = {}, options) {
			return ask({ type, data }, { ...options, oneWay: true });
		},

		subscribe(channel, fn) {
			const first = !channels.has(channel);
			const entry = enlist(channels, channel, fn);
			if (first && state === "open") join(channel);
			return () => {
				const fns = channels.get(channel);
				if (!fns?.delete(entry) || fns.size) return;
				channels.delete(channel);
				if (state === "open") write({ type: "unsubscribe", channel });
			};
		},

		on(name, fn) {
			const entry = enlist(listeners, name, fn);
			return () => listeners.get(name).delete(entry);
		},

		close() {
			end.abort();
			clearInterval(ticking);
			clearTimeout(retry);
			drop("closed", "closed");
		},
	};
} };
