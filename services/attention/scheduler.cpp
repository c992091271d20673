#include "services/attention/scheduler.hpp"

#include <algorithm>
#include <utility>

#include "common/base/rng.hpp"
#include "kernels/include/fulgur/kernels/backend.hpp"

namespace fulgur::attention {
namespace {

// Micro-batches full of decodes in a row, then one that begins with prefill: a quarter of the rows
// where there are more running sequences than rows, and no more than that.
constexpr std::uint32_t kStarvedMax = 3;

void insert_by_age(std::vector<SequenceId>& ids, SequenceId id) {
  ids.insert(std::upper_bound(ids.begin(), ids.end(), id), id);
}

void insert_by_age(std::deque<SequenceId>& ids, SequenceId id) {
  ids.insert(std::upper_bound(ids.begin(), ids.end(), id), id);
}

template <class Container>
void erase_id(Container& ids, SequenceId id) {
  ids.erase(std::remove(ids.begin(), ids.end(), id), ids.end());
}

}  // namespace

std::uint64_t hash_next(std::uint64_t hash, std::uint32_t token) { return mix64(hash ^ token); }

std::uint64_t hash_prefix(std::span<const std::uint32_t> tokens) {
  std::uint64_t hash = 0x66756c677572ULL;
  for (const std::uint32_t token : tokens) hash = hash_next(hash, token);
  return hash;
}

Scheduler::Scheduler(SchedulerOptions options, PrefixCache* cache)
    : options_(options), cache_(cache), slots_(options.slots), pages_(options.pages) {
  FULGUR_ASSERT(options_.lanes > 0 && options_.batch_tokens > 0, "empty engine");
}

std::uint32_t Scheduler::pages_for(std::uint64_t tokens) {
  return static_cast<std::uint32_t>((tokens + kernels::kPageTokens - 1) / kernels::kPageTokens);
}

Status Scheduler::submit(SequencePtr sequence) {
  const wire::Submit& submit = sequence->submit;
  if (submit.tokens.empty() || submit.prompt_tokens == 0 ||
      submit.prompt_tokens > submit.tokens.size()) {
    return error(Code::invalid_argument, "the prompt is empty");
  }
  for (const std::uint32_t token : submit.tokens) {
    if (token >= options_.vocab) {
      return error(Code::invalid_argument, "token id {} is outside the vocabulary of {}", token,
                   options_.vocab);
    }
  }
  const std::uint64_t longest = std::uint64_t{submit.prompt_tokens} + submit.max_new_tokens;
  if (longest > options_.positions_max || submit.tokens.size() > options_.positions_max) {
    return error(Code::invalid_argument, "{} prompt tokens and {} new ones exceed the context of {}",
                 submit.prompt_tokens, submit.max_new_tokens, options_.positions_max);
  }
  if (pages_for(longest) > options_.pages) {
    return error(Code::invalid_argument, "{} tokens exceed this shard's KV capacity of {}", longest,
                 std::uint64_t{options_.pages} * kernels::kPageTokens);
  }
  const SequenceId id = sequence->id;
  // A prompt whose log-probabilities are wanted must be computed here, all of it.
  sequence->computed = sequence->snapshot ? sequence->snapshot->identity.length : 0;
  if (sequence->snapshot != nullptr && !submit.prompt_logprobs &&
      fits(*sequence->snapshot, *sequence)) {
    // What was running elsewhere goes on first; those who send it bound how many there are.
    sequence->state = SequenceState::swapped;
    insert_by_age(swapped_, id);
    ++arrivals_;
    FULGUR_ASSERT(sequences_.emplace(id, std::move(sequence)).second, "sequence id used twice");
    return Status::ok();
  }
  sequence->snapshot.reset();
  sequence->computed = 0;
  prepare_capture(*sequence);
  if (waiting_.size() >= options_.waiting_max) {
    return error(Code::resource_exhausted, "{} requests are waiting already", waiting_.size());
  }
  waiting_.push_back(id);
  FULGUR_ASSERT(sequences_.emplace(id, std::move(sequence)).second, "sequence id used twice");
  return Status::ok();
}

bool Scheduler::plan(MicroBatch& batch) {
  batch.slices.clear();
  batch.tokens.clear();
  batch.failure = Status::ok();
  batch.snapshot.reset();
  pages_short_ = false;
  // A prompt that was just found in the cache is restored in the same breath.
  const bool planned = plan_departure(batch) || plan_capture(batch) || plan_restore(batch) ||
                       plan_forward(batch) || plan_restore(batch) || plan_preemption(batch);
  if (planned) ++lanes_busy_;
  return planned;
}

bool Scheduler::fits(const SequenceSnapshot& snapshot, const Sequence& sequence) const {
  const auto& tokens = sequence.submit.tokens;
  const std::uint64_t length = snapshot.identity.length;
  const std::uint64_t used = sequence.computed;
  if (used >= tokens.size()) return false;  // the last token's logits are wanted
  // Any length in the open block: see PrefixCache.
  if (used > length || used < length / kernels::kLightningBlock * kernels::kLightningBlock) return false;
  if (snapshot.tokens.size() != length) return false;
  if (!std::equal(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(used),
                  snapshot.tokens.begin())) {
    return false;
  }
  wire::SnapshotIdentity wanted = options_.identity;
  wanted.length = length;
  wanted.prefix_hash = hash_prefix(snapshot.tokens);
  return snapshot.identity == wanted;
}

bool Scheduler::plan_departure(MicroBatch& batch) {
  for (std::size_t at = 0; at < running_.size(); ++at) {
    Sequence& sequence = *sequences_.at(running_[at]);
    if (!sequence.departing || sequence.lane || sequence.cancelled) continue;
    if (sequence.computed > 0) {
      plan_snapshot(batch, sequence);
      return true;
    }
    release(sequence);
    sequence.state = SequenceState::departed;
    departed_.push_back(sequence.id);
    running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(at--));
  }
  return false;
}

bool Scheduler::plan_restore(MicroBatch& batch) {
  if (swapped_.empty() || slots_.free() == 0) return false;
  Sequence& sequence = *sequences_.at(swapped_.front());
  // Room for its state and one more page, so that it does not come back only to leave again.
  if (pages_.free() < pages_for(sequence.computed) + 1 && running() > 0) return false;
  if (!grow_pages(sequence, sequence.computed)) return false;
  swapped_.pop_front();
  sequence.slot = slots_.take();
  sequence.state = SequenceState::running;
  insert_by_age(running_, sequence.id);
  batch.work = Work::restore;
  batch.snapshot = std::move(sequence.snapshot);
  if (!fits(*batch.snapshot, sequence)) {  // never a wrong answer: compute it again
    sequence.computed = 0;
    batch.snapshot.reset();
    return false;
  }
  sequence.lane = batch.lane;
  batch.slices.push_back(
      {sequence.id, sequence.slot, 0, 0, sequence.computed, &sequence.pages, 0});
  return true;
}

bool Scheduler::plan_forward(MicroBatch& batch) {
  batch.work = Work::forward;
  const bool wanted = prefill_wanted();
  const bool prefill_first = wanted && prefill_starved_ >= kStarvedMax;
  if (!prefill_first) plan_decodes(batch);
  const std::uint32_t before = batch.rows();
  plan_prefills(batch);
  if (swapped_.empty()) admit_waiting(batch);
  prefill_starved_ = wanted && batch.rows() == before ? prefill_starved_ + 1 : 0;
  if (prefill_first) plan_decodes(batch);
  return !batch.slices.empty();
}

bool Scheduler::prefill_wanted() const {
  if (!waiting_.empty() && swapped_.empty() && slots_.free() > 0) return true;
  return std::ranges::any_of(running_, [this](SequenceId id) {
    const Sequence& sequence = *sequences_.at(id);
    return !sequence.lane && !sequence.cancelled && sequence.pending() > 1;
  });
}

std::uint32_t Scheduler::decode_share() const {
  std::uint32_t ready = 0;
  for (const SequenceId id : running_) {
    const Sequence& sequence = *sequences_.at(id);
    if (!sequence.lane && sequence.pending() == 1) ++ready;
  }
  const std::uint32_t lanes_free = std::max(1U, options_.lanes - lanes_busy_);
  const std::uint32_t share = (ready + lanes_free - 1) / lanes_free;
  return std::min(options_.batch_tokens, std::max(share, options_.lane_rows_min));
}

void Scheduler::plan_decodes(MicroBatch& batch) {
  std::uint32_t share = std::min(decode_share(), budget_left(batch));
  // On from where the last one stopped: with more sequences than rows all get their turn.
  const auto from = std::upper_bound(running_.begin(), running_.end(), last_decoded_);
  const auto first = static_cast<std::size_t>(from - running_.begin());
  for (std::size_t at = 0; at < running_.size(); ++at) {
    if (share == 0) return;
    const SequenceId id = running_[(first + at) % running_.size()];
    Sequence& sequence = *sequences_.at(id);
    if (sequence.lane || sequence.cancelled || sequence.pending() != 1) continue;
    if (!grow_pages(sequence, sequence.length())) {
      pages_short_ = true;
      continue;
    }
    add_slice(batch, sequence, 1);
    last_decoded_ = id;
    --share;
  }
}

std::uint32_t Scheduler::budget_left(const MicroBatch& batch) const {
  return options_.batch_tokens - std::min(options_.batch_tokens, batch.rows());
}

std::uint32_t Scheduler::chunk_rows(const Sequence& sequence, std::uint32_t budget) const {
  const std::uint64_t pending = sequence.pending();
  // A prompt that ends on a boundary leaves nothing in the open block: its state is taken before.
  const bool stop = sequence.capture_at > sequence.computed &&
                    sequence.submit.prompt_tokens % kernels::kLightningBlock == 0;
  if (stop && sequence.capture_at - sequence.computed <= budget) {
    return static_cast<std::uint32_t>(sequence.capture_at - sequence.computed);
  }
  if (pending <= budget) return static_cast<std::uint32_t>(pending);
  const std::uint64_t end = (sequence.computed + budget) / kernels::kLightningBlock *
                            kernels::kLightningBlock;
  if (end > sequence.computed) return static_cast<std::uint32_t>(end - sequence.computed);
  // The budget does not reach the next boundary: only a budget below one block may cut it.
  return options_.batch_tokens < kernels::kLightningBlock ? budget : 0;
}

void Scheduler::plan_prefills(MicroBatch& batch) {
  for (const SequenceId id : running_) {
    const std::uint32_t budget = budget_left(batch);
    if (budget == 0) return;
    Sequence& sequence = *sequences_.at(id);
    if (sequence.lane || sequence.cancelled || sequence.pending() <= 1) continue;
    const std::uint32_t rows = chunk_rows(sequence, budget);
    if (rows == 0) continue;
    if (!grow_pages(sequence, sequence.computed + rows)) {
      pages_short_ = true;
      continue;
    }
    add_slice(batch, sequence, rows);
  }
}

void Scheduler::admit_waiting(MicroBatch& batch) {
  for (std::size_t at = 0; at < waiting_.size();) {
    if (slots_.free() == 0 || pages_short_) return;
    Sequence& sequence = *sequences_.at(waiting_[at]);
    if (prompt_is_under_way(sequence)) {
      ++at;
      continue;
    }
    if (!admit(batch, sequence)) return;
    if (!swapped_.empty()) return;  // it goes on from the cache, in a micro-batch of its own
  }
}

/// False when it does not fit now.
bool Scheduler::admit(MicroBatch& batch, Sequence& sequence) {
  // The whole prompt must fit now: a half-computed prompt that waits for pages helps nobody.
  if (pages_.free() < pages_for(sequence.length())) return false;
  if (admit_from_cache(sequence)) return true;
  const std::uint32_t budget = budget_left(batch);
  const std::uint32_t rows = budget == 0 ? 0 : chunk_rows(sequence, budget);
  if (rows == 0) return false;
  erase_id(waiting_, sequence.id);
  sequence.slot = slots_.take();
  sequence.state = SequenceState::running;
  insert_by_age(running_, sequence.id);
  FULGUR_ASSERT(grow_pages(sequence, sequence.length()), "pages were counted free");
  add_slice(batch, sequence, rows);
  return true;
}

bool Scheduler::admit_from_cache(Sequence& sequence) {
  if (cache_ == nullptr || sequence.submit.prompt_logprobs) return false;
  const std::uint64_t stored = cache_->stats().stored_total + 1;
  if (std::exchange(sequence.cache_asked, stored) == stored) return false;  // nothing new is there
  PrefixCache::Hit hit = cache_->find(sequence.submit.tokens, sequence.length() - 1);
  if (hit.snapshot == nullptr) return false;
  sequence.snapshot = std::move(hit.snapshot);
  sequence.computed = hit.length;
  if (sequence.capture_at <= hit.length) sequence.capture_at = 0;
  erase_id(waiting_, sequence.id);
  sequence.state = SequenceState::swapped;
  insert_by_age(swapped_, sequence.id);
  return true;
}

void Scheduler::prepare_capture(Sequence& sequence) const {
  if (cache_ == nullptr) return;
  constexpr std::uint64_t kBlock = kernels::kLightningBlock;
  const std::uint64_t at = (sequence.submit.prompt_tokens - 1) / kBlock * kBlock;
  const auto prefix = std::span<const std::uint32_t>(sequence.submit.tokens).first(at);
  if (!cache_->wants(prefix)) return;
  sequence.capture_at = at;
  sequence.capture_key = hash_prefix(prefix);
}

/// Another sequence computes the same prompt and will leave its state in the cache: wait for that
/// (n choices of one request arrive together).
bool Scheduler::prompt_is_under_way(const Sequence& sequence) const {
  if (sequence.capture_key == 0 || sequence.submit.prompt_logprobs) return false;
  return std::ranges::any_of(running_, [&](SequenceId id) {
    const Sequence& other = *sequences_.at(id);
    return other.capture_at != 0 && other.capture_key == sequence.capture_key && !other.cancelled;
  });
}

bool Scheduler::plan_capture(MicroBatch& batch) {
  for (const SequenceId id : running_) {
    Sequence& sequence = *sequences_.at(id);
    const bool due = sequence.capture_at != 0 && sequence.computed >= sequence.capture_at;
    if (!due || sequence.lane || sequence.cancelled) continue;
    plan_snapshot(batch, sequence);
    batch.capture = true;
    return true;
  }
  return false;
}

bool Scheduler::plan_preemption(MicroBatch& batch) {
  if (!pages_short_) return false;
  // The newest goes first. While others are in flight they may finish and free pages: wait then.
  for (auto id = running_.rbegin(); id != running_.rend(); ++id) {
    Sequence& victim = *sequences_.at(*id);
    if (victim.lane) return false;
    if (victim.cancelled) continue;
    plan_snapshot(batch, victim);
    return true;
  }
  return false;
}

void Scheduler::plan_snapshot(MicroBatch& batch, Sequence& sequence) {
  sequence.lane = batch.lane;
  batch.work = Work::snapshot;
  batch.capture = false;
  batch.snapshot = std::make_shared<SequenceSnapshot>();
  const auto seen = std::span(sequence.submit.tokens).first(sequence.computed);
  batch.snapshot->tokens.assign(seen.begin(), seen.end());
  batch.snapshot->identity = options_.identity;
  batch.snapshot->identity.length = sequence.computed;
  batch.snapshot->identity.prefix_hash = hash_prefix(seen);
  batch.slices.push_back(
      {sequence.id, sequence.slot, 0, 0, sequence.computed, &sequence.pages, 0});
}

bool Scheduler::grow_pages(Sequence& sequence, std::uint64_t tokens) {
  const std::uint32_t needed = pages_for(tokens);
  if (needed <= sequence.pages.size()) return true;
  if (needed - sequence.pages.size() > pages_.free()) return false;
  while (sequence.pages.size() < needed) sequence.pages.push_back(pages_.take());
  return true;
}

void Scheduler::add_slice(MicroBatch& batch, Sequence& sequence, std::uint32_t rows) {
  Slice slice{sequence.id, sequence.slot, batch.rows(), rows, sequence.computed, &sequence.pages, 0};
  const bool reaches_end = sequence.computed + rows == sequence.length();
  if (sequence.submit.prompt_logprobs && sequence.computed < sequence.submit.prompt_tokens) {
    slice.logits_rows = rows;
  } else if (reaches_end) {
    slice.logits_rows = 1;
  }
  const auto first = sequence.submit.tokens.begin() + static_cast<std::ptrdiff_t>(sequence.computed);
  batch.tokens.insert(batch.tokens.end(), first, first + rows);
  batch.slices.push_back(slice);
  sequence.lane = batch.lane;
}

void Scheduler::complete(const MicroBatch& batch) {
  FULGUR_ASSERT(lanes_busy_ > 0, "a lane completed twice");
  --lanes_busy_;
  for (const Slice& slice : batch.slices) {
    Sequence& sequence = *sequences_.at(slice.sequence);
    sequence.lane.reset();
    if (batch.work == Work::forward && batch.failure.is_ok()) sequence.computed += slice.rows;
    if (batch.work == Work::snapshot) complete_snapshot(batch, sequence);
  }
}

/// A state that could not be copied is computed again where it is wanted: the sequence gives up
/// what it holds all the same, since others wait for that.
void Scheduler::complete_snapshot(const MicroBatch& batch, Sequence& sequence) {
  const bool copied = batch.failure.is_ok();
  if (batch.capture) {
    if (copied) cache_->put(batch.snapshot);
    sequence.capture_at = 0;
    return;
  }
  sequence.snapshot = copied ? batch.snapshot : nullptr;
  if (!copied) sequence.computed = 0;
  release(sequence);
  erase_id(running_, sequence.id);
  if (sequence.departing) {
    sequence.state = SequenceState::departed;
    departed_.push_back(sequence.id);
    return;
  }
  ++preemptions_;
  sequence.state = copied ? SequenceState::swapped : SequenceState::waiting;
  copied ? insert_by_age(swapped_, sequence.id) : insert_by_age(waiting_, sequence.id);
}

void Scheduler::start_over(Sequence& sequence) {
  FULGUR_ASSERT(!sequence.lane && sequence.state == SequenceState::running,
                "only what runs can start over");
  sequence.computed = 0;
}

void Scheduler::depart(Sequence& sequence) {
  sequence.departing = true;
  const bool resting =
      sequence.state == SequenceState::waiting || sequence.state == SequenceState::swapped;
  if (!resting) return;
  erase_id(waiting_, sequence.id);
  erase_id(swapped_, sequence.id);
  sequence.state = SequenceState::departed;
  departed_.push_back(sequence.id);
}

void Scheduler::stay(Sequence& sequence) {
  sequence.departing = false;
  if (sequence.state != SequenceState::departed) return;
  erase_id(departed_, sequence.id);
  if (sequence.snapshot != nullptr) {
    sequence.state = SequenceState::swapped;
    insert_by_age(swapped_, sequence.id);
  } else {
    sequence.state = SequenceState::waiting;
    insert_by_age(waiting_, sequence.id);
  }
}

void Scheduler::append(Sequence& sequence, std::uint32_t token) {
  FULGUR_ASSERT(sequence.pending() == 0, "a token before the last one was computed");
  sequence.submit.tokens.push_back(token);
}

void Scheduler::release(Sequence& sequence) {
  slots_.give_back(sequence.slot);
  for (const std::uint32_t page : sequence.pages) pages_.give_back(page);
  sequence.pages.clear();
}

SequencePtr Scheduler::remove(SequenceId id) {
  const auto found = sequences_.find(id);
  FULGUR_ASSERT(found != sequences_.end(), "no such sequence");
  SequencePtr sequence = std::move(found->second);
  FULGUR_ASSERT(!sequence->lane, "removed while in flight");
  sequences_.erase(found);
  if (sequence->state == SequenceState::running) release(*sequence);
  erase_id(waiting_, id);
  erase_id(running_, id);
  erase_id(swapped_, id);
  erase_id(departed_, id);
  return sequence;
}

Sequence* Scheduler::find(SequenceId id) {
  const auto found = sequences_.find(id);
  return found == sequences_.end() ? nullptr : found->second.get();
}

Sequence* Scheduler::find(transport::LinkId link, std::uint64_t request) {
  for (const auto& [id, sequence] : sequences_) {
    if (sequence->link == link && sequence->submit.request == request) return sequence.get();
  }
  return nullptr;
}

std::vector<SequenceId> Scheduler::of_link(transport::LinkId link) const {
  std::vector<SequenceId> ids;
  for (const auto& [id, sequence] : sequences_) {
    if (sequence->link == link) ids.push_back(id);
  }
  return ids;
}

std::vector<SequenceId> Scheduler::ids() const {
  std::vector<SequenceId> ids;
  for (const auto& [id, sequence] : sequences_) ids.push_back(id);
  return ids;
}

std::vector<SequenceId> Scheduler::expired(std::int64_t wall_now) const {
  std::vector<SequenceId> ids;
  for (const auto& [id, sequence] : sequences_) {
    if (sequence->deadline_ns != 0 && sequence->deadline_ns <= wall_now && !sequence->lane) {
      ids.push_back(id);
    }
  }
  return ids;
}

}  // namespace fulgur::attention
