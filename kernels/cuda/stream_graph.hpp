// Records what is launched on a workspace's stream as a CUDA graph.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

#include "kernels/cuda/graph_cache.hpp"
#include "kernels/cuda/workspace.hpp"

namespace fulgur::kernels::cuda {

/// Memory of the GPU that recording leaves to others: with less it is not tried.
inline constexpr std::size_t kGraphsLeaveBytes = std::size_t{256} << 20;

/// Runs `launches` while the stream records instead of working, and makes a graph of them. They
/// launch kernels that ran before, and do nothing else: no memory is taken or given back, nothing
/// is waited for. Null, and the stream as it was: memory is short, somebody waits for the stream
/// just now, or the recording failed.
std::unique_ptr<Graph> record_graph(Workspace& work, const std::function<void()>& launches);

}  // namespace fulgur::kernels::cuda
