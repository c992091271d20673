// The connection to /v1/events: comes back by itself, goes on in the event log where it was, and
// says which state it is in. The browser retries a broken stream; what it gives up on (a refusal)
// and what dies without a sound are retried here.
const RETRY_MS = [1000, 2000, 4000, 8000];
const SILENCE_MS = 25_000; // the orchestrator says something each 10 s at least
const HIDDEN_MS = 300_000; // a page nobody looks at gives its place to others

export class Stream {
  /** `onTopic(name, data)`, `onEvent(event)`, `onState("connecting" | "live" | "reconnecting")`. */
  constructor(url, {onTopic, onEvent, onState}) {
    Object.assign(this, {
      url,
      onTopic,
      onEvent,
      onState,
      last: '',
      failures: 0,
      heardAt: Date.now(),
    });
    this.wasLive = false;
    document.addEventListener('visibilitychange', () => this.onVisibility());
    setInterval(() => this.watch(), 1000);
    this.open();
  }

  open() {
    clearTimeout(this.timer);
    this.timer = undefined;
    this.heardAt = Date.now();
    const source = new EventSource(this.last ? `${this.url}?since=${this.last}` : this.url);
    this.source = source;
    source.onopen = () => {
      this.failures = 0;
      this.wasLive = true;
      this.heardAt = Date.now();
      this.onState('live');
    };
    source.onerror = () => {
      this.onState(this.wasLive ? 'reconnecting' : 'connecting');
      if (source.readyState === EventSource.CLOSED && this.source === source) this.retry();
    };
    for (const topic of ['mesh', 'load', 'placement'])
      source.addEventListener(topic, (message) => {
        this.heardAt = Date.now();
        this.onTopic(topic, JSON.parse(message.data));
      });
    source.addEventListener('log', (message) => {
      this.last = message.lastEventId;
      this.onEvent(JSON.parse(message.data));
    });
  }

  close() {
    this.source?.close();
    this.source = undefined;
    clearTimeout(this.timer);
    this.timer = undefined;
  }

  retry() {
    this.close();
    const wait = RETRY_MS[Math.min(this.failures++, RETRY_MS.length - 1)];
    this.timer = setTimeout(() => this.open(), wait);
  }

  watch() {
    if (!this.source || Date.now() - this.heardAt < SILENCE_MS) return;
    this.onState('reconnecting');
    this.retry();
  }

  onVisibility() {
    clearTimeout(this.hiddenTimer);
    if (document.hidden) this.hiddenTimer = setTimeout(() => this.close(), HIDDEN_MS);
    else if (!this.source && !this.timer) this.open();
  }
}
