// utf8proc, chunk by chunk: no ASCII character composes with what stands before it, so a chunk may
// begin at any of them and normalise alone. A chunk whose bytes carry different marks keeps them
// where normalising the parts gives the same text; otherwise all of it counts as untrusted.
#include "common/text/normalizer.hpp"

#include <utf8proc.h>

#include <memory>

#include "common/base/assert.hpp"

namespace fulgur::text {
namespace {

bool is_ascii(char c) { return static_cast<unsigned char>(c) < 0x80; }

utf8proc_option_t options_of(NormalForm form) {
  int options = UTF8PROC_STABLE;
  switch (form) {
    case NormalForm::nfc:
      options |= UTF8PROC_COMPOSE;
      break;
    case NormalForm::nfd:
      options |= UTF8PROC_DECOMPOSE;
      break;
    case NormalForm::nfkc:
      options |= UTF8PROC_COMPOSE | UTF8PROC_COMPAT;
      break;
    case NormalForm::nfkd:
      options |= UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT;
      break;
  }
  return static_cast<utf8proc_option_t>(options);
}

std::string normalize(std::string_view chunk, NormalForm form) {
  utf8proc_uint8_t* mapped = nullptr;
  const auto length =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(chunk.data()),
                   static_cast<utf8proc_ssize_t>(chunk.size()), &mapped, options_of(form));
  FULGUR_ASSERT(length >= 0, utf8proc_errmsg(length));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(mapped, &std::free);
  return {reinterpret_cast<const char*>(mapped), static_cast<std::size_t>(length)};
}

void append_chunk(const MarkedText& chunk, NormalForm form, MarkedText& out) {
  const std::string whole = normalize(chunk.text(), form);
  MarkedText parts;
  for (const auto& segment : chunk.segments()) {
    parts.append(normalize(segment.text, form), segment.trusted);
  }
  if (parts.text() == whole) {
    out.append(parts);
  } else {
    out.append(whole, chunk.all_trusted());
  }
}

MarkedText apply_form(const MarkedText& text, NormalForm form) {
  MarkedText out;
  const std::string& bytes = text.text();
  std::size_t begin = 0;
  while (begin < bytes.size()) {
    std::size_t end = begin;
    while (end < bytes.size() && is_ascii(bytes[end])) ++end;
    const bool more = end < bytes.size();
    // The last ASCII character may compose with the mark that follows it.
    const std::size_t plain_end = more && end > begin ? end - 1 : end;
    out.append(text, begin, plain_end);
    while (end < bytes.size() && !is_ascii(bytes[end])) ++end;
    if (more) append_chunk(text.slice(plain_end, end), form, out);
    begin = end;
  }
  return out;
}

}  // namespace

MarkedText Normalizer::apply(MarkedText text) const {
  for (const NormalForm form : forms_) text = apply_form(text, form);
  return text;
}

}  // namespace fulgur::text
