#include "bench/serve/load.hpp"

#include <curl/curl.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "bench/serve/token_stream.hpp"

namespace fulgur::bench::serve {
namespace {

constexpr std::size_t kErrorBytesMax = 512;
constexpr Nanoseconds kWaitMax = 100 * kMillisecond;

/// One connection's place: an easy handle, used by one request after another.
struct Slot {
  CURL* handle = nullptr;
  std::uint32_t request = 0;
  std::uint32_t output_tokens = 0;
  std::string body;
  std::string error_body;
  std::optional<TokenStream> stream;
  const Clock* clock = nullptr;
  bool busy = false;

  ~Slot() { curl_easy_cleanup(handle); }

  static std::size_t write(char* data, std::size_t one, std::size_t count, void* user) {
    auto& slot = *static_cast<Slot*>(user);
    const std::string_view bytes(data, one * count);
    long status = 0;
    curl_easy_getinfo(slot.handle, CURLINFO_RESPONSE_CODE, &status);
    if (status == 200) return slot.stream->feed(bytes, slot.clock->now()) ? bytes.size() : 0;
    slot.error_body.append(bytes.substr(0, kErrorBytesMax - slot.error_body.size()));
    return bytes.size();
  }
};

std::string transport_error(CURLcode code) {
  switch (code) {
    case CURLE_COULDNT_CONNECT:
    case CURLE_COULDNT_RESOLVE_HOST: return "connect";
    case CURLE_OPERATION_TIMEDOUT: return "timeout";
    case CURLE_GOT_NOTHING:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_PARTIAL_FILE: return "broken_connection";
    default: return "transport";
  }
}

class Load {
 public:
  Load(const Clock& clock, const LoadOptions& options, const Workload& workload)
      : clock_(clock), options_(options), workload_(workload), multi_(curl_multi_init()) {
    FULGUR_ASSERT(multi_ != nullptr, "libcurl does not start");
    FULGUR_ASSERT(options.arrivals.empty() || options.arrivals.size() == options.requests,
                  "one arrival a request");
    curl_multi_setopt(multi_, CURLMOPT_MAXCONNECTS, static_cast<long>(options.connections_max));
    // "Expect: 100-continue" would cost long prompts a round trip that no other client pays.
    headers_ = curl_slist_append(nullptr, "Content-Type: application/json");
    headers_ = curl_slist_append(headers_, "Expect:");
    const auto slots = std::min(options.connections_max, options.requests);
    for (std::uint32_t i = 0; i < slots; ++i) add_slot();
  }

  ~Load() {
    for (const auto& slot : slots_)
      if (slot->busy) curl_multi_remove_handle(multi_, slot->handle);
    slots_.clear();
    curl_multi_cleanup(multi_);
    curl_slist_free_all(headers_);
  }

  Load(const Load&) = delete;
  Load& operator=(const Load&) = delete;

  LoadResult run() {
    result_.outcomes.resize(options_.requests);
    start_ = clock_.now();
    while (finished_ < options_.requests && elapsed() < options_.deadline) {
      start_due();
      int running = 0;
      curl_multi_perform(multi_, &running);
      if (collect()) continue;
      curl_multi_poll(multi_, nullptr, 0, wait_ms(), nullptr);
    }
    cancel_rest();
    result_.elapsed = elapsed();
    return std::move(result_);
  }

 private:
  Nanoseconds elapsed() const { return clock_.now() - start_; }

  void add_slot() {
    auto slot = std::make_unique<Slot>();
    slot->handle = curl_easy_init();
    FULGUR_ASSERT(slot->handle != nullptr, "libcurl does not start");
    slot->clock = &clock_;
    CURL* const handle = slot->handle;
    curl_easy_setopt(handle, CURLOPT_URL, (options_.url + "/v1/completions").c_str());
    curl_easy_setopt(handle, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(handle, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(handle, CURLOPT_HTTPHEADER, headers_);
    curl_easy_setopt(handle, CURLOPT_WRITEFUNCTION, &Slot::write);
    curl_easy_setopt(handle, CURLOPT_WRITEDATA, slot.get());
    curl_easy_setopt(handle, CURLOPT_PRIVATE, slot.get());
    free_.push_back(slot.get());
    slots_.push_back(std::move(slot));
  }

  void start_due() {
    while (next_ < options_.requests && !free_.empty()) {
      const Nanoseconds now = elapsed();
      const Nanoseconds scheduled = options_.arrivals.empty() ? now : options_.arrivals[next_];
      if (scheduled > now) return;
      start(next_++, scheduled, now);
    }
  }

  void start(std::uint32_t request, Nanoseconds scheduled, Nanoseconds now) {
    Outcome& outcome = result_.outcomes[request];
    outcome.scheduled = scheduled;
    const Nanoseconds left = options_.request_timeout - (now - scheduled);
    if (left < kMillisecond) return fail(outcome, "timeout", "waited too long for a connection");
    Slot& slot = *free_.back();
    free_.pop_back();
    PlannedRequest plan = plan_request(workload_, options_.first_index + request);
    outcome.prompt_tokens = plan.prompt_tokens;
    slot.request = request;
    slot.output_tokens = plan.output_tokens;
    slot.body = std::move(plan.body);
    slot.error_body.clear();
    slot.stream.emplace();
    slot.busy = true;
    curl_easy_setopt(slot.handle, CURLOPT_POSTFIELDSIZE, static_cast<long>(slot.body.size()));
    curl_easy_setopt(slot.handle, CURLOPT_POSTFIELDS, slot.body.c_str());
    curl_easy_setopt(slot.handle, CURLOPT_TIMEOUT_MS, static_cast<long>(left / kMillisecond));
    outcome.sent = elapsed();
    curl_multi_add_handle(multi_, slot.handle);
    const auto in_flight = static_cast<std::uint32_t>(slots_.size() - free_.size());
    result_.in_flight_max = std::max(result_.in_flight_max, in_flight);
  }

  /// True when some request finished: its slot may be due for another.
  bool collect() {
    bool any = false;
    int left = 0;
    while (const CURLMsg* message = curl_multi_info_read(multi_, &left)) {
      if (message->msg != CURLMSG_DONE) continue;
      const CURLcode code = message->data.result;
      Slot* slot = nullptr;
      curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &slot);
      curl_multi_remove_handle(multi_, slot->handle);
      finish(*slot, code);
      slot->busy = false;
      free_.push_back(slot);
      any = true;
    }
    return any;
  }

  void finish(Slot& slot, CURLcode code) {
    Outcome& outcome = result_.outcomes[slot.request];
    const TokenStream& stream = *slot.stream;
    const auto since_start = [&](Nanoseconds at) { return at > 0 ? at - start_ : 0; };
    outcome.first_token = since_start(stream.first_token());
    outcome.last_token = since_start(stream.last_token());
    outcome.output_tokens = stream.tokens();
    outcome.gaps = stream.gaps();
    long status = 0;
    curl_easy_getinfo(slot.handle, CURLINFO_RESPONSE_CODE, &status);
    if (!stream.failure().empty()) return fail(outcome, "stream_error", stream.failure());
    if (code != CURLE_OK) return fail(outcome, transport_error(code), curl_easy_strerror(code));
    if (status != 200) return fail(outcome, fmt::format("http_{}", status), slot.error_body);
    if (!stream.done()) return fail(outcome, "truncated", "the stream ended without [DONE]");
    if (stream.tokens() != slot.output_tokens)
      return fail(outcome, "wrong_length",
                  fmt::format("{} tokens instead of {}", stream.tokens(), slot.output_tokens));
    outcome.finished = elapsed();
    ++finished_;
  }

  void fail(Outcome& outcome, std::string kind, std::string detail) {
    outcome.error = std::move(kind);
    outcome.detail = std::move(detail);
    outcome.finished = elapsed();
    ++finished_;
  }

  /// Until the next arrival that has a free slot, rounded down: the last fraction of a millisecond
  /// is spun, for it would count as the server's latency.
  int wait_ms() const {
    const Nanoseconds now = elapsed();
    Nanoseconds until = std::min(options_.deadline, now + kWaitMax);
    if (next_ < options_.requests && !free_.empty() && !options_.arrivals.empty())
      until = std::min(until, options_.arrivals[next_]);
    return static_cast<int>(std::max<Nanoseconds>(until - now, 0) / kMillisecond);
  }

  void cancel_rest() {
    for (const auto& slot : slots_) {
      if (!slot->busy) continue;
      curl_multi_remove_handle(multi_, slot->handle);
      slot->busy = false;
      fail(result_.outcomes[slot->request], "deadline", "cancelled at the run's deadline");
    }
    for (; next_ < options_.requests; ++next_) {
      Outcome& outcome = result_.outcomes[next_];
      outcome.scheduled = options_.arrivals.empty() ? elapsed() : options_.arrivals[next_];
      fail(outcome, "not_sent", "the run's deadline passed before its turn");
    }
  }

  const Clock& clock_;
  const LoadOptions& options_;
  const Workload& workload_;
  CURLM* multi_;
  curl_slist* headers_ = nullptr;
  std::vector<std::unique_ptr<Slot>> slots_;
  std::vector<Slot*> free_;
  Nanoseconds start_ = 0;
  std::uint32_t next_ = 0;      ///< not yet sent
  std::uint32_t finished_ = 0;  ///< have an outcome
  LoadResult result_;
};

}  // namespace

LoadResult run_load(const Clock& clock, const LoadOptions& options, const Workload& workload) {
  return Load(clock, options, workload).run();
}

}  // namespace fulgur::bench::serve
