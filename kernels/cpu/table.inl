// The function table of one instruction set.

static const KernelTable kTable = {
    .name = FULGUR_KERNEL_NAME,
#ifdef FULGUR_KERNEL_BF16
    .bf16_rows = RowFormat::bf16,
#ifdef FULGUR_KERNEL_AMX
    .order = ProductOrder::tiles,
    .row_tile = 2 * kTileRows,
    .product_bf16 = product_tiles,
#else
    .order = ProductOrder::pairs,
    .row_tile = kRowsMax,
    .product_bf16 = product<RowsBf16PanelBf16>,
#endif
#else
    .bf16_rows = RowFormat::rounded,
    .order = ProductOrder::pairs,
    .row_tile = kRowsMax,
    .product_bf16 = nullptr,
#endif
    .product_f32_bf16 = product<RowsF32PanelBf16>,
    .product_f32_f32 = product<RowsF32PanelF32>,
    .pack_row = pack_row,
    .store_tile = store_tile,
    .silu_tile = silu_tile,
    .norm = norm,
    .scale_add = scale_add,
    .to_float = to_float,
    .to_bf16 = to_bf16,
    .combine = combine,
    .exp_shifted = exp_shifted,
    .lightning = {lightning<float>, lightning<std::uint16_t>},
    .rotate = rotate,
    .store_kv = {store_kv<float>, store_kv<std::uint16_t>},
    .softmax_split = {softmax_split<float>, softmax_split<std::uint16_t>},
    .softmax_merge = softmax_merge,
    .scale = scale,
    .probe_fma = probe_fma,
    .probe_bf16 = probe_bf16,
    .probe_read = probe_read,
};
