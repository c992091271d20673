// One streamed answer of /v1/completions: when its tokens came and how it ended. Bytes go in as
// they arrive, cut anywhere. One thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "cli/http_client.hpp"
#include "common/base/clock.hpp"

namespace fulgur::bench::serve {

class TokenStream {
 public:
  TokenStream();
  TokenStream(const TokenStream&) = delete;
  TokenStream& operator=(const TokenStream&) = delete;

  /// False when the stream can no longer end well: an event that never ends, or is not JSON.
  bool feed(std::string_view bytes, Nanoseconds now);

  /// The server said [DONE].
  bool done() const { return done_; }
  /// What an error event or a broken one said; empty while all is well.
  const std::string& failure() const { return failure_; }
  /// Generated tokens: as the usage event says, else as counted. A server that does not send
  /// `token_ids` is counted by events with text.
  std::uint64_t tokens() const { return usage_tokens_ > 0 ? usage_tokens_ : counted_tokens_; }
  /// Times of the first and the last event that carried tokens; 0 before the first.
  Nanoseconds first_token() const { return first_token_; }
  Nanoseconds last_token() const { return last_token_; }
  /// Times between consecutive events that carried tokens. An event may carry several tokens.
  const std::vector<Nanoseconds>& gaps() const { return gaps_; }

 private:
  void event(std::string_view data);
  void note_tokens(std::uint64_t count);

  cli::SseReader reader_;
  Nanoseconds now_ = 0;
  std::size_t bytes_since_event_ = 0;
  bool done_ = false;
  std::string failure_;
  std::uint64_t counted_tokens_ = 0;
  std::uint64_t usage_tokens_ = 0;
  Nanoseconds first_token_ = 0;
  Nanoseconds last_token_ = 0;
  std::vector<Nanoseconds> gaps_;
};

}  // namespace fulgur::bench::serve
