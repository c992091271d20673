// Clients of a mesh that changes under them: streams, as many at a time as asked, of which none may
// fail, and of which each request's must have the same text whenever and wherever it runs.
import {pause, until} from './overlay_pods.mjs';

const kLoops = 8;

export class Clients {
  /** `address`: gives a router's URL for the next request; `requests`: bodies of completions. */
  constructor(address, requests) {
    Object.assign(this, {address, requests, width: 1, rest: 50});
    Object.assign(this, {running: true, done: 0, failures: [], slowest: 0});
    this.answers = requests.map(() => new Set());
    const loops = Array.from({length: kLoops}, (_, number) => this.loop(number));
    this.finished = Promise.all(loops);
  }

  async loop(number) {
    for (let turn = number; this.running; ) {
      if (number >= this.width) {
        await pause(50);
        continue;
      }
      const begun = Date.now();
      await this.stream(turn++ % this.requests.length).catch((error) =>
        this.failures.push(`${error} ${error.cause ?? ''}`),
      );
      const took = Date.now() - begun;
      this.slowest = Math.max(this.slowest, took);
      ++this.done;
      const wake = Date.now() + Math.min(this.rest * took, 10000);
      while (this.running && this.rest > 0 && Date.now() < wake) await pause(50);
    }
  }

  async stream(which) {
    const response = await fetch(`${this.address()}/v1/completions`, {
      method: 'POST',
      body: JSON.stringify({...this.requests[which], stream: true}),
      headers: {'content-type': 'application/json'},
    });
    const text = await response.text();
    const events = text.split('\n').filter((line) => line.startsWith('data: '));
    if (!response.ok || events.pop() !== 'data: [DONE]' || text.includes('"error"'))
      throw new Error(`${response.status} ${text.slice(-300)}`);
    const choices = events.flatMap((line) => JSON.parse(line.slice(6)).choices);
    this.answers[which].add(choices.map((choice) => choice.text ?? '').join(''));
  }

  /** `width` clients at a time; each rests `rest` times what its stream took, 10 s at most. */
  load(width, rest) {
    Object.assign(this, {width, rest});
  }

  async more(count, seconds) {
    const goal = this.done + count;
    await until(`${count} streams`, seconds, async () => this.done >= goal);
  }

  /** What was seen; throws when a stream failed or differed. */
  async stop() {
    this.running = false;
    await this.finished;
    const {done, failures} = this;
    if (failures.length > 0)
      throw new Error(`${failures.length} of ${done} streams failed: ${failures[0]}`);
    const different = this.answers.filter((texts) => texts.size > 1).length;
    if (different > 0) throw new Error(`${different} requests had different answers`);
    const seconds = (this.slowest / 1000).toFixed(1);
    return `${done} streams, none failed, the text as ever; the slowest took ${seconds} s`;
  }
}
