// The chat template engine on arbitrary templates and message texts: the input up to the first NUL
// is the template, the rest what a user wrote. User text must never count as trusted.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "common/text/chat_template.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  const std::size_t end = input.find('\0');
  const std::string source = input.substr(0, end);
  const std::string content = end == std::string::npos ? "hi" : input.substr(end + 1);
  const auto parsed = fulgur::text::ChatTemplate::parse(source, {{"bos_token", "<s>"}});
  if (!parsed) return 0;
  const fulgur::text::Json messages = {{{"role", "user"}, {"content", content}}};
  const auto prompt = parsed->render(messages, nullptr, {{"add_generation_prompt", true}}, 0);
  if (!prompt) return 0;
  // A byte that neither the template nor a name or number can make comes from the user.
  const bool marker_is_foreign =
      source.find('\x7f') == std::string::npos && source.find('\\') == std::string::npos;
  for (const auto& segment : prompt->segments()) {
    if (marker_is_foreign && segment.trusted && segment.text.find('\x7f') != std::string::npos) {
      std::abort();
    }
  }
  return 0;
}
