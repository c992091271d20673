// C entry points over kernels/cuda for bench.py (ctypes): plain pointers and ints, torch's stream.
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/layout.hpp"
#include "kernels/cuda/portable/portable.hpp"

namespace cuda = fulgur::kernels::cuda;

namespace {
cudaStream_t stream_of(void* stream) { return static_cast<cudaStream_t>(stream); }
fulgur::kernels::Sums sums_of(const void* partials) {
  return partials != nullptr ? fulgur::kernels::Sums::free : fulgur::kernels::Sums::fixed;
}
}  // namespace

extern "C" {

void fg_overlap_launches(int overlap) { cuda::overlap_launches(overlap != 0); }

std::int64_t fg_head_slot_bytes() { return cuda::kHeadSlotBytes; }
std::int64_t fg_state_byte(std::int64_t d, std::int64_t e) {
  return static_cast<std::int64_t>(cuda::state_byte(d, e));
}
int fg_tiled_capacity(int routes, int groups) { return cuda::tiled_capacity(routes, groups); }

int fg_pack_weight(const void* weight, int rows, int cols, int first_row, int interleave,
                   void* packed, void* stream) {
  return cuda::pack_weight(weight, rows, cols, first_row, interleave, packed, stream_of(stream));
}

int fg_plan_groups(const void* experts, int tokens, int k, void* counts, void* offsets,
                   void* source, void* target, int groups, int capacity, void* stream) {
  const cuda::RouteGroups g{static_cast<int*>(counts),
                            static_cast<int*>(offsets),
                            static_cast<int*>(source),
                            static_cast<int*>(target),
                            groups,
                            capacity};
  return cuda::plan_groups(static_cast<const std::uint16_t*>(experts), tokens, k, g,
                           stream_of(stream));
}

std::int64_t fg_product_partials_bytes() {
  return static_cast<std::int64_t>(cuda::product_partials_bytes());
}

/// partials: of free sums, zero at first; null: sums are fixed.
int fg_experts(int fp8, const void* x, int x_is_f32, int routes, void* counts, void* offsets,
               void* source, void* target, int groups, int capacity, void* gate_up, void* down,
               int hidden, int inner, void* tiled_x, void* tiled_inner, void* out, void* partials,
               void* stream) {
  const cuda::RouteGroups g{static_cast<int*>(counts),
                            static_cast<int*>(offsets),
                            static_cast<int*>(source),
                            static_cast<int*>(target),
                            groups,
                            capacity};
  const cuda::Experts e{static_cast<const void* const*>(gate_up),
                        static_cast<const void* const*>(down),
                        hidden,
                        inner,
                        tiled_x,
                        tiled_inner,
                        sums_of(partials),
                        partials};
  const auto call = fp8 != 0 ? cuda::experts_fp8 : cuda::experts;
  return call(x, x_is_f32 != 0, routes, g, e, out, stream_of(stream));
}

int fg_quantize_weight(const void* weight, int is_f32, int rows, int cols, int first_row,
                       int interleave, int packed_rows, void* packed, void* stream) {
  return cuda::quantize_weight(weight, is_f32 != 0, rows, cols, first_row, interleave, packed_rows,
                               packed, stream_of(stream));
}

int fg_gather_fp8(const void* x, int x_is_f32, int dim, void* source, int capacity, void* tiled,
                  void* stream) {
  cuda::RouteGroups g{};
  g.source = static_cast<int*>(source);
  g.capacity = capacity;
  return cuda::gather_tiled_fp8(x, x_is_f32 != 0, dim, g, tiled, stream_of(stream));
}

/// source [capacity], as the plan has it.
int fg_gather(const void* x, int x_is_f32, int dim, void* source, int capacity, void* tiled,
              void* stream) {
  cuda::RouteGroups g{};
  g.source = static_cast<int*>(source);
  g.capacity = capacity;
  return cuda::gather_tiled(x, x_is_f32 != 0, dim, g, tiled, stream_of(stream));
}

/// Groups of rows [groups] counts, offsets; store: cuda::Store; out_rows [capacity] or null.
int fg_product(int fp8, const void* tiled, int capacity, int rows, int cols, void* weights,
               int weight_rows, void* counts, void* offsets, int groups, int features, int store,
               void* out, const void* out_rows, void* stream) {
  cuda::Product p{};
  p.x = tiled;
  p.capacity = capacity;
  p.cols = cols;
  p.weight_rows = weight_rows;
  p.weights = static_cast<const void* const*>(weights);
  p.counts = static_cast<const int*>(counts);
  p.rows = rows;
  p.offsets = static_cast<const int*>(offsets);
  p.groups = groups;
  p.store = static_cast<cuda::Store>(store);
  p.out = out;
  p.out_rows = static_cast<const int*>(out_rows);
  p.features = features;
  return fp8 != 0 ? cuda::product_fp8(p, stream_of(stream)) : cuda::product(p, stream_of(stream));
}

int fg_tile_rows(const void* x, int x_is_f32, int rows, int dim, int capacity, void* tiled,
                 void* stream) {
  return cuda::tile_rows(x, x_is_f32 != 0, rows, dim, capacity, tiled, stream_of(stream));
}

/// partials: as of fg_experts().
int fg_dense(const void* tiled, int capacity, int rows, int cols, const void* weight,
             int weight_rows, int features, int store, void* out, void* partials, void* stream) {
  cuda::Product p{};
  p.x = tiled;
  p.capacity = capacity;
  p.cols = cols;
  p.weight_rows = weight_rows;
  p.weight = weight;
  p.rows = rows;
  p.groups = 1;
  p.store = static_cast<cuda::Store>(store);
  p.out = out;
  p.features = features;
  p.sums = sums_of(partials);
  p.partials = partials;
  return cuda::product(p, stream_of(stream));
}

int fg_combine(const void* y, int tokens, int dim, int k, const void* weights, const void* outputs,
               float alpha, float beta, void* out, void* stream) {
  return cuda::combine(static_cast<const float*>(y), tokens, dim, k,
                       static_cast<const float*>(weights), outputs, alpha, beta,
                       static_cast<float*>(out), stream_of(stream));
}

int fg_lightning(int decode, const void* qkv, const void* segments, int count, int heads,
                 const void* powers, void* out, void* stream) {
  const auto* rows = static_cast<const cuda::LightningRows*>(segments);
  const auto* table = static_cast<const float*>(powers);
  return decode != 0
             ? cuda::lightning_decode(qkv, rows, count, heads, table, out, stream_of(stream))
             : cuda::lightning_prefill(qkv, rows, count, heads, table, out, stream_of(stream));
}

/// sums: fulgur::kernels::Sums, here and below.
std::int64_t fg_softmax_scratch(int count, int heads, int lengths_max, int sums) {
  return static_cast<std::int64_t>(cuda::softmax_scratch_bytes(
      count, heads, lengths_max, static_cast<fulgur::kernels::Sums>(sums)));
}

int fg_softmax_decode(const void* q, const void* pages, const void* table, int table_stride,
                      const void* lengths, int lengths_max, int count, int heads, int kv_heads,
                      void* partial, void* out, int sums, void* stream) {
  cuda::SoftmaxDecode call{};
  call.q = q;
  call.pages = pages;
  call.page_table = static_cast<const int*>(table);
  call.table_stride = table_stride;
  call.lengths = static_cast<const int*>(lengths);
  call.lengths_max = lengths_max;
  call.count = count;
  call.heads = heads;
  call.kv_heads = kv_heads;
  call.partial = static_cast<float*>(partial);
  call.out = out;
  call.sums = static_cast<fulgur::kernels::Sums>(sums);
  return cuda::softmax_decode(call, stream_of(stream));
}

/// tiles [count, 4] int32 on the device: SoftmaxTile.
int fg_softmax_prefill(const void* q, const void* pages, const void* table, int table_stride,
                       const void* tiles, int count, int heads, int kv_heads, void* out,
                       void* stream) {
  cuda::SoftmaxPrefill call{};
  call.q = q;
  call.pages = pages;
  call.page_table = static_cast<const int*>(table);
  call.table_stride = table_stride;
  call.tiles = static_cast<const cuda::SoftmaxTile*>(tiles);
  call.count = count;
  call.heads = heads;
  call.kv_heads = kv_heads;
  call.out = out;
  return cuda::softmax_prefill(call, stream_of(stream));
}

int fg_rotary_cache(const void* qkv, int rows, int heads, int kv_heads, int rotary_dim,
                    const void* frequencies, const void* sequence, const void* position,
                    const void* table, int table_stride, void* pages, void* q_out, void* stream) {
  return cuda::rotary_cache(
      qkv, rows, heads, kv_heads, rotary_dim, static_cast<const float*>(frequencies),
      static_cast<const int*>(sequence), static_cast<const int*>(position),
      static_cast<const int*>(table), table_stride, pages, q_out, stream_of(stream));
}

int fg_residual_norm(const void* x, const void* y, float alpha, float beta, const void* weight,
                     float eps, int rows, int dim, void* out, void* tiled, int capacity,
                     void* stream) {
  return cuda::residual_norm(static_cast<const float*>(x), static_cast<const float*>(y), alpha,
                             beta, static_cast<const float*>(weight), eps, rows, dim,
                             static_cast<float*>(out), tiled, capacity, stream_of(stream));
}

int fg_norm_gate(const void* o, const void* gate, const void* weight, float eps, int rows, int dim,
                 void* tiled, int capacity, void* stream) {
  return cuda::norm_gate(o, gate, static_cast<const float*>(weight), eps, rows, dim, tiled,
                         capacity, stream_of(stream));
}

int fg_embed(const void* table, const void* ids, int rows, int dim, void* out, void* stream) {
  return cuda::embed(table, static_cast<const std::uint32_t*>(ids), rows, dim,
                     static_cast<float*>(out), stream_of(stream));
}

int fg_route(const void* y, int rows, int dim, const void* router, int experts, int k, void* chosen,
             void* weights, void* stream) {
  return cuda::route(static_cast<const float*>(y), rows, dim, static_cast<const float*>(router),
                     experts, k, static_cast<std::uint16_t*>(chosen), static_cast<float*>(weights),
                     stream_of(stream));
}

std::int64_t fg_draw_parts_bytes(int vocab) {
  return static_cast<std::int64_t>(cuda::portable::draw_parts(static_cast<std::size_t>(vocab)) *
                                   sizeof(cuda::portable::DrawPart));
}

/// rows [count] portable::DrawRow; banned [ceil(vocab / 32)]; out [count] token and log-probability.
int fg_draw(const void* logits, int vocab, const void* rows, int count, const void* banned,
            void* parts, void* out, void* stream) {
  return cuda::portable::draw(static_cast<const float*>(logits), static_cast<std::size_t>(vocab),
                              static_cast<const cuda::portable::DrawRow*>(rows),
                              static_cast<std::size_t>(count),
                              static_cast<const std::uint32_t*>(banned),
                              static_cast<cuda::portable::DrawPart*>(parts),
                              static_cast<fulgur::kernels::Drawn*>(out), stream_of(stream));
}

std::int64_t fg_rank_groups_bytes(int vocab) {
  return static_cast<std::int64_t>(cuda::portable::draw_parts(static_cast<std::size_t>(vocab)) *
                                   fulgur::kernels::kRanks * sizeof(std::uint64_t));
}

/// rows [count] uint32; out [count, kRanks] logit and token.
int fg_rank(const void* logits, int vocab, const void* rows, int count, void* groups, void* out,
            void* stream) {
  return cuda::portable::rank(
      static_cast<const float*>(logits), static_cast<std::size_t>(vocab),
      static_cast<const std::uint32_t*>(rows), static_cast<std::size_t>(count),
      static_cast<std::uint64_t*>(groups), static_cast<fulgur::kernels::RankedToken*>(out),
      stream_of(stream));
}

}  // extern "C"
