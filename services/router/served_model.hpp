// What the router knows of the model it fronts: its name, tokenizer, chat template, limits and
// sampling defaults. Immutable after load(); shared by the HTTP threads and the sessions.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/status.hpp"
#include "common/text/chat_template.hpp"
#include "common/text/tokenizer.hpp"
#include "services/router/api_error.hpp"
#include "services/router/generation_request.hpp"
#include "services/router/openai_request.hpp"

namespace fulgur::router {

using TokenIds = std::vector<std::uint32_t>;

struct ServedModelOptions {
  std::string directory;
  std::string served_name;        ///< empty: the directory's own name
  std::uint64_t context_max = 0;  ///< 0: the model's
  std::uint32_t default_max_tokens = 4096;  ///< of a chat that names no limit
};

class ServedModel {
 public:
  /// Reads config, generation defaults, tokenizer and chat template, and checks the checkpoint's
  /// headers. One line naming the file when something is wrong; a missing tokenizer is not.
  static Result<std::shared_ptr<const ServedModel>> load(const ServedModelOptions& options);

  const std::string& name() const { return name_; }
  std::int64_t created() const { return created_; }
  std::uint64_t fingerprint() const { return fingerprint_; }
  const RequestLimits& limits() const { return limits_; }
  const std::vector<std::uint32_t>& eos_ids() const { return eos_ids_; }
  const std::optional<text::Tokenizer>& tokenizer() const { return tokenizer_; }

  /// Whether a request for `model` is for this one; an empty name is.
  bool answers_to(const std::string& model) const { return model.empty() || model == name_; }

  /// A prompt as ids; `param` names it in errors.
  ApiResult<TokenIds> encode(const Prompt& prompt, bool add_special_tokens,
                             const std::string& param) const;
  /// A chat through the model's template. Template text may spell control tokens, messages not.
  ApiResult<TokenIds> encode_chat(const Json& messages, const Json& tools,
                                  bool add_generation_prompt) const;
  std::string decode(const TokenIds& ids, bool skip_special) const;
  /// The text of one token for logprobs, different for different tokens: "bytes:\xe2\x82" when it is
  /// a part of a character, "token_id:7" without a tokenizer.
  std::string token_text(std::uint32_t id) const;

 private:
  ServedModel() = default;
  Status load_tokenizer(const std::string& directory);
  Status load_defaults(const std::string& directory);

  std::string name_;
  std::int64_t created_ = 0;
  std::uint64_t fingerprint_ = 0;
  RequestLimits limits_;
  std::vector<std::uint32_t> eos_ids_;
  std::optional<text::Tokenizer> tokenizer_;
  std::optional<text::ChatTemplate> chat_template_;
};

}  // namespace fulgur::router
