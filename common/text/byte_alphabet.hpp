// The printable alphabet in which byte-level BPE files spell raw bytes (GPT-2's bytes_to_unicode):
// printable Latin-1 stands for itself, the other 68 bytes for U+0100 … U+0143.
#pragma once

#include <string>
#include <string_view>

namespace fulgur::text {

/// Appends the bytes that `spelling` stands for. A spelling with a character outside the alphabet
/// stands for its own UTF-8 bytes, as in Hugging Face's ByteLevel decoder.
void append_spelled_bytes(std::string& out, std::string_view spelling);

}  // namespace fulgur::text
