// Chat templates: a model's own Jinja2 template turns messages into a prompt that remembers which
// bytes the template's author wrote. What a user wrote is encoded as characters, whatever control
// token it may spell. Immutable after parse(), safe to share between threads.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/base/clock.hpp"
#include "common/base/status.hpp"
#include "common/text/marked_text.hpp"
#include "common/text/tokenizer.hpp"

namespace fulgur::text {

/// Template bytes are trusted; bytes from messages, tools and extra variables are not. Numbers and
/// known role names count as trusted.
using RenderedPrompt = MarkedText;

/// JSON that keeps the order of keys, which templates print.
using Json = nlohmann::ordered_json;

/// How a template wants the `content` of messages.
enum class ContentFormat {
  any,     ///< as it comes
  string,  ///< strings; a list of text parts is joined with newlines, null is empty
  typed,   ///< lists of {"type": "text", "text": …}; a string is wrapped
};

/// Names and texts of a model's special tokens, e.g. {"bos_token", "<s>"}. Trusted.
using SpecialTokens = std::vector<std::pair<std::string, std::string>>;

class ChatTemplate {
 public:
  /// Fails with invalid_argument naming line and column of a syntax error or of anything the
  /// language subset lacks.
  static Result<ChatTemplate> parse(std::string source, SpecialTokens special_tokens = {});

  /// Renders `messages` (an array of objects) with `tools` (null or an array) and the variables of
  /// `extra` (an object, e.g. {"add_generation_prompt": true}). Special tokens cannot be replaced
  /// by `extra`. `wall_now` (since 1970) serves strftime_now; default: the clock. Fails with
  /// invalid_argument (the input, or the template's raise_exception) or resource_exhausted
  /// (limits).
  Result<RenderedPrompt> render(const Json& messages, const Json& tools = nullptr,
                                const Json& extra = Json::object(),
                                std::optional<Nanoseconds> wall_now = std::nullopt) const;

  ContentFormat content_format() const { return content_format_; }
  const std::string& source() const { return *source_; }

 private:
  struct Parsed;
  Result<RenderedPrompt> render_adapted(const Json& messages, const Json& tools, const Json& extra,
                                        Nanoseconds wall_now, bool is_probe) const;
  ContentFormat probe_content_format() const;

  std::shared_ptr<const std::string> source_;
  std::shared_ptr<const Parsed> parsed_;
  SpecialTokens special_tokens_;
  ContentFormat content_format_ = ContentFormat::any;
};

/// The template of a model directory: chat_template.jinja, or "chat_template" of
/// tokenizer_config.json (a string, or a list of named templates of which "default" is taken), with
/// the special tokens of tokenizer_config.json. Fails with not_found when there is none.
Result<ChatTemplate> load_chat_template(const std::filesystem::path& model_dir);

/// Ids of a prompt. Words are cut as in the whole text; control tokens count only where trusted.
Result<std::vector<std::uint32_t>> encode_prompt(const Tokenizer& tokenizer,
                                                 const RenderedPrompt& prompt);

}  // namespace fulgur::text
