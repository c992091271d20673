// Inside of the codec, one pair of functions a message: put() fills a Cap'n Proto builder, get()
// reads one back. get() bounds every list before it allocates; ranges are validate()'s business.
// Only codec*.cpp include this: it is the one place that sees Cap'n Proto headers.
#pragma once

#include <capnp/message.h>
#include <capnp/orphan.h>

#include "common/base/status.hpp"
#include "common/wire/control.capnp.h"
#include "common/wire/dispatch.capnp.h"
#include "common/wire/envelope.capnp.h"
#include "common/wire/generate.capnp.h"
#include "common/wire/limits.hpp"
#include "common/wire/messages.hpp"

namespace fulgur::wire::detail {

/// What put() needs beside its builder, to attach the tensor block without copying it.
struct EncodeContext {
  capnp::Orphanage orphanage;
  Frame tensor;  ///< set by the messages that have one: the memory referenced by the message
};

/// Where Cap'n Proto may read in the place of a frame: itself, or zeros for one in device memory, so
/// that a malformed header that points into the tensor block is refused and not a fault.
const std::byte* readable(const Frame& frame);

/// Finds the frame that `bytes` lie in, so that a tensor block can keep it alive.
Frame frame_of(const Frames& frames, capnp::Data::Reader bytes);

/// References `tensor` from the message; copies it first if Cap'n Proto cannot (see encode()).
capnp::Orphan<capnp::Data> reference(EncodeContext& context, const Frame& tensor);

inline capnp::Text::Reader text(const std::string& value) {
  return {value.c_str(), value.size()};
}

inline Status read_text(capnp::Text::Reader text, std::size_t limit, const char* field,
                        std::string& out) {
  if (text.size() > limit) {
    return error(Code::data_loss, "{} has {} bytes, limit {}", field, text.size(), limit);
  }
  out.assign(text.begin(), text.size());
  return Status::ok();
}

/// Reads list element by element into `out` with read(reader, element) -> Status.
template <class List, class T, class Read>
Status read_list(List list, std::size_t limit, const char* field, std::vector<T>& out, Read read) {
  if (list.size() > limit) {
    return error(Code::data_loss, "{} has {} entries, limit {}", field, list.size(), limit);
  }
  out.resize(list.size());
  for (unsigned i = 0; i < list.size(); ++i) FULGUR_RETURN_IF_ERROR(read(list[i], out[i]));
  return Status::ok();
}

template <class List, class T>
Status read_numbers(List list, std::size_t limit, const char* field, std::vector<T>& out) {
  return read_list(list, limit, field, out, [](auto value, T& element) {
    element = value;
    return Status::ok();
  });
}

/// Schema enums have the values of ours; a value we do not know is kept and refused by validate().
template <class Ours, class Theirs>
Ours read_enum(Theirs value) {
  const auto raw = static_cast<unsigned>(value);
  return static_cast<Ours>(raw > 0xffU ? 0xffU : raw);
}

void put(schema::Dispatch::Builder to, const Dispatch& from, EncodeContext& context);
void put(schema::Combine::Builder to, const Combine& from, EncodeContext& context);
void put(schema::Nack::Builder to, const Nack& from);
void put(schema::Submit::Builder to, const Submit& from);
void put(schema::Tokens::Builder to, const Tokens& from);
void put(schema::Done::Builder to, const Done& from);
void put(schema::Cancel::Builder to, const Cancel& from);
void put(schema::Register::Builder to, const Register& from);
void put(schema::Ack::Builder to, const Ack& from);
void put(schema::Heartbeat::Builder to, const Heartbeat& from);
void put(schema::Placement::Builder to, const Placement& from);
void put(schema::Prepare::Builder to, const Prepare& from);
void put(schema::Prepared::Builder to, const Prepared& from);
void put(schema::Retire::Builder to, const Retire& from);
void put(schema::Switched::Builder to, const Switched& from);
void put(schema::Report::Builder to, const Report& from);
void put(schema::Drain::Builder to, const Drain& from);
void put(schema::Hello::Builder to, const Hello& from);
void put(schema::SnapshotOffer::Builder to, const SnapshotOffer& from);
void put(schema::SnapshotChunk::Builder to, const SnapshotChunk& from, EncodeContext& context);
void put(schema::SnapshotReply::Builder to, const SnapshotReply& from);
void put(schema::SnapshotDrop::Builder to, const SnapshotDrop& from);

Status get(schema::Dispatch::Reader from, const Frames& frames, Dispatch& to);
Status get(schema::Combine::Reader from, const Frames& frames, Combine& to);
Status get(schema::Nack::Reader from, Nack& to);
Status get(schema::Submit::Reader from, Submit& to);
Status get(schema::Tokens::Reader from, Tokens& to);
Status get(schema::Done::Reader from, Done& to);
Status get(schema::Cancel::Reader from, Cancel& to);
Status get(schema::Register::Reader from, Register& to);
Status get(schema::Ack::Reader from, Ack& to);
Status get(schema::Heartbeat::Reader from, Heartbeat& to);
Status get(schema::Placement::Reader from, Placement& to);
Status get(schema::Prepare::Reader from, Prepare& to);
Status get(schema::Prepared::Reader from, Prepared& to);
Status get(schema::Retire::Reader from, Retire& to);
Status get(schema::Switched::Reader from, Switched& to);
Status get(schema::Report::Reader from, Report& to);
Status get(schema::Drain::Reader from, Drain& to);
Status get(schema::Hello::Reader from, Hello& to);
Status get(schema::SnapshotOffer::Reader from, SnapshotOffer& to);
Status get(schema::SnapshotChunk::Reader from, const Frames& frames, SnapshotChunk& to);
Status get(schema::SnapshotReply::Reader from, SnapshotReply& to);
Status get(schema::SnapshotDrop::Reader from, SnapshotDrop& to);

/// Whether Cap'n Proto can reference the tensor where it is: aligned, whole words.
bool referencable(const Frame& tensor);

/// 64-bit words the header of the message takes, roughly; a good guess avoids a second segment.
std::size_t header_words(const Message& message);

}  // namespace fulgur::wire::detail
