// The largest steps that a shard's limits allow, done once before it serves: whatever memory the
// backend takes for them is there when they come in earnest, and what does not fit is known before
// the first request. Which shapes are the largest is said here; how much they take, only the
// backend knows.
#pragma once

#include "services/attention/shard.hpp"

namespace fulgur::attention {

/// Nothing where the backend's memory is the host's. The shard's layers, engine and pool exist;
/// sequence states are undefined afterwards, as they are before a sequence's first token. Throws
/// std::bad_alloc.
void rehearse(Shard& shard);

}  // namespace fulgur::attention
