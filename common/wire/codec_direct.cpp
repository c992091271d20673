// Dispatch and Combine, word by word. They are two messages a layer and worker for every
// micro-batch, and Cap'n Proto's arenas cost more than all else in them: some ten allocations and 2
// us a message. Its encoder lays these two out in one way only, so that layout is written here, and
// a header that has exactly it is read here. Everything else, hostile or merely new, is Cap'n
// Proto's business: read_direct() has no opinion on it. Pointers as in capnproto.org/encoding.html.
//
//   words    what
//   1        root: a struct of 3 words and 2 pointers follows
//   3        version, which body, deadline, trace id
//   2        pointers: sender, body
//   ..       sender and its NUL
//   4        the body's numbers
//   1..2     pointers: Dispatch's routes; the tensor, a far pointer to the landing pad
//   1 + n    Dispatch only: tag of the routes, the routes
//   2        landing pad: start of segment 1, size of the tensor
#include "common/wire/codec_direct.hpp"

#include <bit>
#include <cstring>

#include "common/wire/codec_detail.hpp"

namespace fulgur::wire::detail {
namespace {

static_assert(std::endian::native == std::endian::little);

using Word = std::uint64_t;
using Which = schema::Envelope::Body::Which;

template <class Struct>
constexpr bool has_words(unsigned data, unsigned pointers) {
  using Size = typename Struct::_capnpPrivate;
  return Size::dataWordSize == data && Size::pointerCount == pointers;
}
// A field appended to one of these is a layout that this file does not know: teach it.
static_assert(has_words<schema::Envelope>(3, 3) && has_words<schema::Route>(1, 0));
static_assert(has_words<schema::Dispatch>(4, 2) && has_words<schema::Combine>(4, 1));

constexpr Word join(std::uint64_t low, std::uint64_t high) { return low | high << 32; }
constexpr std::uint32_t low_of(Word word) { return static_cast<std::uint32_t>(word); }
constexpr std::uint32_t high_of(Word word) { return static_cast<std::uint32_t>(word >> 32); }

constexpr Word kRoot = join(0, 0x0002'0003);
constexpr Word kFarToSegment1 = join(2, 1);
constexpr Word bytes_pointer(Word offset, Word bytes) {
  return join(offset << 2 | 1, bytes << 3 | 2);
}
constexpr Word routes_pointer(Word count) { return join(1 << 2 | 1, count << 3 | 7); }
constexpr Word routes_tag(Word count) { return join(count << 2, 1); }
constexpr Word pad_pointer(Word pad) { return pad << 3 | 6; }
constexpr Word body_pointer(Word sender_words, bool dispatch) {
  return join(sender_words << 2, dispatch ? 0x0002'0004 : 0x0001'0004);
}

constexpr std::size_t kSender = 6;  // its first word
constexpr std::size_t kBodyNumbers = 4;
constexpr std::size_t kPad = 2;

constexpr std::size_t words_of(std::size_t bytes) { return (bytes + 7) / 8; }

const Frame* tensor_of(const Message& message) {
  if (const auto* dispatch = std::get_if<Dispatch>(&message.body)) return &dispatch->activations;
  if (const auto* combine = std::get_if<Combine>(&message.body)) return &combine->outputs;
  return nullptr;
}

/// Numbers and pointers of a body whose landing pad is word `pad` of the segment; returns its end.
Word* put_body(const Dispatch& from, Word pad, Word* to) {
  const std::size_t count = from.routes.size();
  to[0] = from.id;
  to[1] = from.epoch;
  to[2] = join(from.layer, from.rows);
  to[3] = join(from.hidden, static_cast<Word>(from.dtype));
  to[4] = routes_pointer(count);
  to[5] = pad_pointer(pad);
  to[6] = routes_tag(count);
  to += 7;
  for (const Route& route : from.routes) {
    *to++ = join(route.row, Word{route.slot} | Word{route.expert} << 16);
  }
  return to;
}

Word* put_body(const Combine& from, Word pad, Word* to) {
  to[0] = from.id;
  to[1] = join(from.layer, from.routes);
  to[2] = join(from.hidden, static_cast<Word>(from.dtype));
  to[3] = join(from.queue_us, from.compute_us);
  to[4] = pad_pointer(pad);
  return to + 5;
}

Dtype dtype_of(std::uint32_t word) { return read_enum<Dtype>(word & 0xffffU); }

/// `body` has the numbers of a Dispatch, its pointers and `count` routes.
void get_body(const Word* body, std::size_t count, const Frame& tensor, Dispatch& to) {
  to.id = body[0];
  to.epoch = body[1];
  to.layer = low_of(body[2]);
  to.rows = high_of(body[2]);
  to.hidden = low_of(body[3]);
  to.dtype = dtype_of(high_of(body[3]));
  to.activations = tensor;
  to.routes.resize(count);
  for (std::size_t i = 0; i < count; ++i) {
    const Word route = body[7 + i];
    to.routes[i] = {low_of(route), static_cast<std::uint16_t>(route >> 32),
                    static_cast<std::uint16_t>(route >> 48)};
  }
}

void get_body(const Word* body, const Frame& tensor, Combine& to) {
  to.id = body[0];
  to.layer = low_of(body[1]);
  to.routes = high_of(body[1]);
  to.hidden = low_of(body[2]);
  to.dtype = dtype_of(high_of(body[2]));
  to.queue_us = low_of(body[3]);
  to.compute_us = high_of(body[3]);
  to.outputs = tensor;
}

/// Bytes of the tensor that a landing pad names, if all of frame 1 belongs to it; else 0.
std::size_t tensor_bytes(const Word* pad, const Frame& frame) {
  const std::size_t bytes = high_of(pad[1]) >> 3;
  const bool fits = pad[0] == kFarToSegment1 && pad[1] == bytes_pointer(0, bytes) &&
                    words_of(bytes) * sizeof(Word) == frame.size;
  return fits ? bytes : 0;
}

/// The routes of a Dispatch that starts at `body` and has `words` words to the end of the segment;
/// kMaxRoutes + 1: not laid out as ours.
std::size_t count_routes(const Word* body, std::size_t words) {
  constexpr std::size_t kNone = std::size_t{kMaxRoutes} + 1;
  constexpr std::size_t kFixed = kBodyNumbers + 2 + 1 + kPad;
  if (words < kFixed || words - kFixed > kMaxRoutes) return kNone;
  const std::size_t count = words - kFixed;
  return body[4] == routes_pointer(count) && body[6] == routes_tag(count) ? count : kNone;
}

/// `at`: the first word of the body.
bool read_body(const Word* header, std::size_t at, std::size_t words, const Frame& frame,
               Message& message) {
  const Word* body = header + at;
  const std::size_t pad = words - kPad;
  const std::size_t bytes = tensor_bytes(header + pad, frame);
  if (bytes == 0) return false;
  const Frame tensor{frame.owner, frame.data, bytes, frame.memory, frame.ready};
  if (header[5] == body_pointer(at - kSender, true)) {
    const std::size_t count = count_routes(body, words - at);
    if (count > kMaxRoutes || body[5] != pad_pointer(pad)) return false;
    get_body(body, count, tensor, message.body.emplace<Dispatch>());
    return true;
  }
  if (words - at != kBodyNumbers + 1 + kPad || body[4] != pad_pointer(pad)) return false;
  get_body(body, tensor, message.body.emplace<Combine>());
  return true;
}

}  // namespace

bool write_direct(const Message& message, Frames& frames) {
  const Frame* tensor = tensor_of(message);
  if (tensor == nullptr || message.trace.sampled()) return false;
  if (tensor->size == 0 || tensor->size > kMaxMessageBytes || !referencable(*tensor)) return false;
  const auto* dispatch = std::get_if<Dispatch>(&message.body);
  const std::size_t routes = dispatch == nullptr ? 0 : dispatch->routes.size();
  if (message.sender.size() > kMaxNameBytes || routes > kMaxRoutes) return false;

  const std::size_t sender_words = words_of(message.sender.size() + 1);
  const std::size_t body_words =
      kBodyNumbers + (dispatch == nullptr ? 1 : 2 + 1 + routes);  // pointers, tag, routes
  const std::size_t pad = kSender + sender_words + body_words;
  auto header = std::make_shared_for_overwrite<Word[]>(pad + kPad);
  const Which which = dispatch == nullptr ? Which::COMBINE : Which::DISPATCH;
  header[0] = kRoot;
  header[1] = Word{message.version} | static_cast<Word>(which) << 16;
  header[2] = static_cast<Word>(message.deadline_ns);
  header[3] = message.trace.low;
  header[4] = bytes_pointer(1, message.sender.size() + 1);
  header[5] = body_pointer(sender_words, dispatch != nullptr);
  header[kSender + sender_words - 1] = 0;
  std::memcpy(&header[kSender], message.sender.data(), message.sender.size());
  Word* body = &header[kSender + sender_words];
  Word* end = dispatch == nullptr ? put_body(std::get<Combine>(message.body), pad, body)
                                  : put_body(*dispatch, pad, body);
  end[0] = kFarToSegment1;
  end[1] = bytes_pointer(0, tensor->size);

  const auto* bytes = reinterpret_cast<const std::byte*>(header.get());
  frames.reserve(2);
  frames.push_back({std::move(header), bytes, (pad + kPad) * sizeof(Word)});
  frames.push_back(*tensor);
  return true;
}

bool read_direct(const Frames& frames, Message& message) {
  if (frames.size() != 2 || is_device(frames[0])) return false;
  const auto* header = reinterpret_cast<const Word*>(frames[0].data);
  const std::size_t words = frames[0].size / sizeof(Word);
  if (words < kSender || header[0] != kRoot) return false;
  const auto which = static_cast<Which>(header[1] >> 16 & 0xffffU);
  const auto version = static_cast<std::uint16_t>(header[1]);
  if (version != kProtocolVersion) return false;
  if (which != Which::DISPATCH && which != Which::COMBINE) return false;

  const std::size_t text_bytes = high_of(header[4]) >> 3;  // with its NUL
  if (text_bytes == 0 || text_bytes > kMaxNameBytes + 1) return false;
  if (header[4] != bytes_pointer(1, text_bytes)) return false;
  const std::size_t at = kSender + words_of(text_bytes);
  if (words < at + kBodyNumbers + 1 + kPad) return false;
  if (header[5] != body_pointer(at - kSender, which == Which::DISPATCH)) return false;
  const auto* text = reinterpret_cast<const char*>(&header[kSender]);
  if (text[text_bytes - 1] != '\0') return false;
  if (!read_body(header, at, words, frames[1], message)) return false;
  message.version = version;
  message.sender.assign(text, text_bytes - 1);
  message.deadline_ns = static_cast<std::int64_t>(header[2]);
  message.trace.low = header[3];
  return true;
}

}  // namespace fulgur::wire::detail
