# Router <-> attention shard: requests, their tokens and their ends; shard -> shard: the state of
# sequences that move. Comments on the fields are in messages.hpp; bounds in limits.hpp. Fields are appended, never renumbered.
@0xfedf0755778c2615;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("fulgur::wire::schema");

struct LogitBias {
  token @0 :UInt32;
  bias @1 :Float32;
}

struct SamplingParams {
  temperature @0 :Float32;
  topP @1 :Float32;
  topK @2 :UInt32;
  minP @3 :Float32;
  presencePenalty @4 :Float32;
  frequencyPenalty @5 :Float32;
  repetitionPenalty @6 :Float32;
  seed @7 :UInt64;
  logitBias @8 :List(LogitBias);
}

struct Submit {
  request @0 :UInt64;
  tokens @1 :List(UInt32);
  promptTokens @2 :UInt32;
  maxNewTokens @3 :UInt32;
  stopIds @4 :List(UInt32);
  minNewTokens @5 :UInt32;
  topLogprobs @6 :UInt8;
  logprobs @7 :Bool;
  promptLogprobs @8 :Bool;
  sampling @9 :SamplingParams;
  snapshot @10 :UInt64;
}

struct TokenLogprob {
  token @0 :UInt32;
  logprob @1 :Float32;
}

struct TokenEvent {
  request @0 :UInt64;
  index @1 :UInt32;
  token @2 :UInt32;
  prompt @3 :Bool;
  logprob @4 :Float32;
  top @5 :List(TokenLogprob);
}

struct Tokens {
  events @0 :List(TokenEvent);
}

enum FinishReason { stop @0; length @1; cancelled @2; error @3; }

struct Done {
  request @0 :UInt64;
  reason @1 :FinishReason;
  code @2 :UInt8;          # fulgur::Code
  message @3 :Text;
  generatedTokens @4 :UInt32;
  draining @5 :Bool;
  movedTo @6 :Text;
  snapshot @7 :UInt64;
}

struct Cancel {
  request @0 :UInt64;
}

struct SnapshotIdentity {
  modelFingerprint @0 :UInt64;
  weightVersion @1 :UInt64;
  numerics @2 :Text;
  layout @3 :UInt64;
  prefixHash @4 :UInt64;
  length @5 :UInt64;
}

struct SnapshotOffer {
  transfer @0 :UInt64;
  identity @1 :SnapshotIdentity;
  layerBytes @2 :List(UInt64);
}

struct SnapshotChunk {
  transfer @0 :UInt64;
  section @1 :UInt32;      # 0: the tokens, little-endian UInt32; 1 + i: layer i
  offset @2 :UInt64;       # in the section
  checksum @3 :UInt64;     # fulgur::wire::checksum of bytes
  bytes @4 :Data;
}

enum SnapshotState { accepted @0; received @1; parked @2; refused @3; }

struct SnapshotReply {
  transfer @0 :UInt64;
  state @1 :SnapshotState;
  code @2 :UInt8;          # fulgur::Code
  message @3 :Text;
  received @4 :UInt64;
  credit @5 :UInt64;
  snapshot @6 :UInt64;
}

struct SnapshotDrop {
  transfer @0 :UInt64;
}
