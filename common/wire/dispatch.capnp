# Attention shard <-> expert worker: rows of activations out, expert outputs back. Comments on the
# fields are in messages.hpp; bounds in limits.hpp. Fields are appended, never renumbered.
@0xfe8fdb7fb227513b;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("fulgur::wire::schema");

enum Dtype { f32 @0; bf16 @1; f16 @2; }

struct Route {
  row @0 :UInt32;
  slot @1 :UInt16;
  expert @2 :UInt16;
}

struct Dispatch {
  id @0 :UInt64;
  epoch @1 :UInt64;
  layer @2 :UInt32;
  rows @3 :UInt32;
  hidden @4 :UInt32;
  dtype @5 :Dtype;
  routes @6 :List(Route);
  activations @7 :Data;    # [rows, hidden]; a segment of its own
}

struct Combine {
  id @0 :UInt64;
  layer @1 :UInt32;
  routes @2 :UInt32;
  hidden @3 :UInt32;
  dtype @4 :Dtype;
  queueUs @5 :UInt32;
  computeUs @6 :UInt32;
  outputs @7 :Data;        # [routes, hidden]; a segment of its own
}

enum NackReason { notHeld @0; busy @1; invalid @2; draining @3; }

struct Nack {
  id @0 :UInt64;
  epoch @1 :UInt64;
  layer @2 :UInt32;
  reason @3 :NackReason;
}
