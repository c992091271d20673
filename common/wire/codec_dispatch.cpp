// Dispatch, Combine, Nack <-> their schema.
#include <sys/mman.h>

#include <cstring>

#include "common/wire/codec_detail.hpp"

namespace fulgur::wire::detail {
namespace {

schema::Dtype to_schema(Dtype dtype) { return static_cast<schema::Dtype>(dtype); }

/// Address space as large as the largest message that reads as zeros and costs no memory.
const std::byte* zeros() {
  static const std::byte* const region = [] {
    void* mapped = mmap(nullptr, kMaxMessageBytes, PROT_READ,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    FULGUR_ASSERT(mapped != MAP_FAILED, "no address space for device frames");
    return static_cast<const std::byte*>(mapped);
  }();
  return region;
}

}  // namespace

const std::byte* readable(const Frame& frame) { return is_device(frame) ? zeros() : frame.data; }

bool referencable(const Frame& tensor) {
  return tensor.size % sizeof(capnp::word) == 0 &&
         reinterpret_cast<std::uintptr_t>(tensor.data) % sizeof(capnp::word) == 0;
}

Frame frame_of(const Frames& frames, capnp::Data::Reader bytes) {
  const auto* begin = reinterpret_cast<const std::byte*>(bytes.begin());
  for (const Frame& frame : frames) {
    const std::byte* start = readable(frame);
    if (begin >= start && begin < start + frame.size) {
      return {frame.owner, frame.data + (begin - start), bytes.size(), frame.memory, frame.ready};
    }
  }
  return {};
}

capnp::Orphan<capnp::Data> reference(EncodeContext& context, const Frame& tensor) {
  context.tensor = tensor;
  if (!referencable(tensor)) {
    FULGUR_ASSERT(tensor.memory == MemoryKind::host, "a device tensor that is not whole words");
    const std::size_t words = (tensor.size + sizeof(capnp::word) - 1) / sizeof(capnp::word);
    auto copy = std::shared_ptr<std::uint64_t[]>(new std::uint64_t[words]());
    std::memcpy(copy.get(), tensor.data, tensor.size);
    const auto* data = reinterpret_cast<const std::byte*>(copy.get());
    context.tensor = {std::move(copy), data, tensor.size};
  }
  return context.orphanage.referenceExternalData(
      {reinterpret_cast<const capnp::byte*>(context.tensor.data), tensor.size});
}

void put(schema::Dispatch::Builder to, const Dispatch& from, EncodeContext& context) {
  to.setId(from.id);
  to.setEpoch(from.epoch);
  to.setLayer(from.layer);
  to.setRows(from.rows);
  to.setHidden(from.hidden);
  to.setDtype(to_schema(from.dtype));
  auto routes = to.initRoutes(static_cast<unsigned>(from.routes.size()));
  for (unsigned i = 0; i < routes.size(); ++i) {
    auto route = routes[i];
    route.setRow(from.routes[i].row);
    route.setSlot(from.routes[i].slot);
    route.setExpert(from.routes[i].expert);
  }
  if (from.activations.size != 0) to.adoptActivations(reference(context, from.activations));
}

Status get(schema::Dispatch::Reader from, const Frames& frames, Dispatch& to) {
  to.id = from.getId();
  to.epoch = from.getEpoch();
  to.layer = from.getLayer();
  to.rows = from.getRows();
  to.hidden = from.getHidden();
  to.dtype = read_enum<Dtype>(from.getDtype());
  to.activations = frame_of(frames, from.getActivations());
  return read_list(from.getRoutes(), kMaxRoutes, "dispatch.routes", to.routes,
                   [](schema::Route::Reader route, Route& out) {
                     out = {route.getRow(), route.getSlot(), route.getExpert()};
                     return Status::ok();
                   });
}

void put(schema::Combine::Builder to, const Combine& from, EncodeContext& context) {
  to.setId(from.id);
  to.setLayer(from.layer);
  to.setRoutes(from.routes);
  to.setHidden(from.hidden);
  to.setDtype(to_schema(from.dtype));
  to.setQueueUs(from.queue_us);
  to.setComputeUs(from.compute_us);
  if (from.outputs.size != 0) to.adoptOutputs(reference(context, from.outputs));
}

Status get(schema::Combine::Reader from, const Frames& frames, Combine& to) {
  to.id = from.getId();
  to.layer = from.getLayer();
  to.routes = from.getRoutes();
  to.hidden = from.getHidden();
  to.dtype = read_enum<Dtype>(from.getDtype());
  to.queue_us = from.getQueueUs();
  to.compute_us = from.getComputeUs();
  to.outputs = frame_of(frames, from.getOutputs());
  return Status::ok();
}

void put(schema::Nack::Builder to, const Nack& from) {
  to.setId(from.id);
  to.setEpoch(from.epoch);
  to.setLayer(from.layer);
  to.setReason(static_cast<schema::NackReason>(from.reason));
}

Status get(schema::Nack::Reader from, Nack& to) {
  to.id = from.getId();
  to.epoch = from.getEpoch();
  to.layer = from.getLayer();
  to.reason = read_enum<NackReason>(from.getReason());
  return Status::ok();
}

}  // namespace fulgur::wire::detail
