# Everything between services and the orchestrator, and the transport's own Hello. Comments on the
# fields are in messages.hpp; bounds in limits.hpp. Fields are appended, never renumbered.
@0xb1e732a180addc15;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("fulgur::wire::schema");

enum ServiceKind { router @0; attention @1; expert @2; orchestrator @3; tool @4; }

struct Held {
  layer @0 :UInt32;
  expert @1 :UInt32;
}

struct Register {
  kind @0 :ServiceKind;
  name @1 :Text;
  incarnation @2 :UInt64;
  pid @3 :UInt32;
  endpoint @4 :Text;
  adminEndpoint @5 :Text;
  modelFingerprint @6 :UInt64;
  weightVersion @7 :UInt64;
  numerics @8 :Text;
  capacityBytes @9 :UInt64;
  epoch @10 :UInt64;
  held @11 :List(Held);
  failureDomain @12 :Text;
  draining @13 :Bool;
  orchestratorGeneration @14 :UInt64;
}

struct Ack {
  id @0 :UInt64;
  code @1 :UInt8;          # fulgur::Code
  message @2 :Text;
  orchestratorGeneration @3 :UInt64;
}

struct Load {
  queueDepth @0 :UInt32;
  running @1 :UInt32;
  waiting @2 :UInt32;
  tokensTotal @3 :UInt64;
  requestsTotal @4 :UInt64;
  busyNsTotal @5 :UInt64;
  kvPagesUsed @6 :UInt32;
  kvPagesTotal @7 :UInt32;
  stateSlotsUsed @8 :UInt32;
  stateSlotsTotal @9 :UInt32;
  heldBytes @10 :UInt64;
  waitNsTotal @11 :UInt64;
  firstTokenNsTotal @12 :UInt64;
  firstTokensTotal @13 :UInt64;
  interTokenNsTotal @14 :UInt64;
  interTokensTotal @15 :UInt64;
}

struct ExpertTokens {
  layer @0 :UInt16;
  expert @1 :UInt16;
  tokens @2 :UInt64;
}

struct WorkerSeen {
  name @0 :Text;
  incarnation @1 :UInt64;
  speed @2 :Float32;
  slow @3 :Bool;
  reachable @4 :Bool;
}

struct Heartbeat {
  name @0 :Text;
  incarnation @1 :UInt64;
  epoch @2 :UInt64;
  load @3 :Load;
  expertTokens @4 :List(ExpertTokens);
  orchestratorGeneration @5 :UInt64;
  workers @6 :List(WorkerSeen);
}

struct WorkerEntry {
  name @0 :Text;
  incarnation @1 :UInt64;
  endpoint @2 :Text;
  replicas @3 :List(UInt64);   # bit (layer * experts + expert)
}

struct ShardEntry {
  name @0 :Text;
  incarnation @1 :UInt64;
  endpoint @2 :Text;
  accepting @3 :Bool;
}

struct Placement {
  epoch @0 :UInt64;
  orchestratorGeneration @1 :UInt64;
  layers @2 :UInt32;
  experts @3 :UInt32;
  workers @4 :List(WorkerEntry);
  shards @5 :List(ShardEntry);
}

struct Prepare {
  epoch @0 :UInt64;
  orchestratorGeneration @1 :UInt64;
  layers @2 :UInt32;
  experts @3 :UInt32;
  replicas @4 :List(UInt64);
  urgent @5 :List(UInt64);     # empty: none
}

struct Prepared {
  name @0 :Text;
  incarnation @1 :UInt64;
  epoch @2 :UInt64;
  code @3 :UInt8;
  message @4 :Text;
}

struct Retire {
  epoch @0 :UInt64;
  orchestratorGeneration @1 :UInt64;
}

struct Switched {
  name @0 :Text;
  incarnation @1 :UInt64;
  epoch @2 :UInt64;
}

struct Report {
  name @0 :Text;
  worker @1 :Text;
  workerIncarnation @2 :UInt64;
  code @3 :UInt8;
}

struct Drain {
  name @0 :Text;
  orchestratorGeneration @1 :UInt64;
}

struct Hello {
  kind @0 :ServiceKind;
  name @1 :Text;
  incarnation @2 :UInt64;
  host @3 :Text;
  shmOffer @4 :Text;
  shmAccepted @5 :Bool;
  gpu @6 :Text;
  readsPacked @7 :Bool;
}
