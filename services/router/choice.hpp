// One sequence of a request: what has been generated so far, and the text a client may see of it.
// Takes token events of whichever shard runs the sequence, in order, each exactly once; knows when
// it is finished and can always say how to continue elsewhere. Plain class, no I/O.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/text/detokenizer.hpp"
#include "services/router/generation_request.hpp"
#include "services/router/served_model.hpp"
#include "services/router/stop_scanner.hpp"

namespace fulgur::router {

/// What became visible since it was last asked for.
struct Delta {
  std::string text;
  std::vector<wire::TokenEvent> tokens;      ///< behind `text`; kept when somebody asked for them
  std::vector<std::size_t> text_offsets;     ///< [tokens] where each begins, in characters
};

class Choice {
 public:
  /// `prompt_index` and `n_index` say which prompt and which of its n this is.
  Choice(std::shared_ptr<const GenerationRequest> request, std::shared_ptr<const ServedModel> model,
         std::shared_ptr<const TokenIds> prompt, std::uint32_t n_index, std::uint64_t seed);

  /// The message that starts the sequence, or continues it after what was generated.
  wire::Submit submit(std::uint64_t id) const;

  enum class Taken { used, duplicate, gap };
  /// A gap means that tokens are missing: the sequence must be submitted again.
  Taken take(const wire::TokenEvent& event);
  /// The shard says that the sequence ended by itself.
  void finish(wire::FinishReason reason);

  bool finished() const { return finish_reason_.has_value(); }
  /// "stop" or "length".
  std::string_view finish_reason() const;
  /// Ended by a stop string: the shard does not know and goes on.
  bool cut_short() const { return scanner_.found(); }
  bool started() const { return !generated_.empty() || !prompt_events_.empty(); }
  std::size_t generated() const { return generated_.size(); }
  const TokenIds& prompt() const { return *prompt_; }
  Delta take_delta();
  const std::vector<wire::TokenEvent>& prompt_events() const { return prompt_events_; }
  /// Whether the log-probabilities of the whole prompt are there, if anybody asked for them.
  bool knows_prompt() const {
    return !request_->prompt_logprobs || prompt_events_.size() >= prompt_->size();
  }

 private:
  void append_text(std::uint32_t id);
  void show(std::string text);
  bool is_stop_id(std::uint32_t id) const;

  std::shared_ptr<const GenerationRequest> request_;
  std::shared_ptr<const ServedModel> model_;
  std::shared_ptr<const TokenIds> prompt_;
  std::uint64_t seed_;
  std::uint32_t max_tokens_;
  std::vector<std::uint32_t> stop_ids_;
  std::optional<text::Detokenizer> detokenizer_;
  StopScanner scanner_;
  TokenIds generated_;
  std::vector<wire::TokenEvent> prompt_events_;
  std::optional<wire::FinishReason> finish_reason_;
  Delta delta_;
  std::size_t characters_ = 0;  ///< of text produced so far, held back or shown
};

}  // namespace fulgur::router
