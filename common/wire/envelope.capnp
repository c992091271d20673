# The root of every message of the mesh. `version` is read before anything else, so it must stay
# the first field for ever.
@0x96b810c3ab479596;

using Cxx = import "/capnp/c++.capnp";
using D = import "dispatch.capnp";
using G = import "generate.capnp";
using C = import "control.capnp";
$Cxx.namespace("fulgur::wire::schema");

# Present in messages of a sampled trace only.
struct TraceContext {
  high @0 :UInt64;         # first 8 bytes of the W3C trace id; the last 8 are traceId
  span @1 :UInt64;         # the sender's span that the receiver's spans are children of
}

struct Envelope {
  version @0 :UInt16;
  sender @1 :Text;
  deadlineNs @2 :Int64;    # wall clock, since the Unix epoch; 0: none
  traceId @3 :UInt64;

  body :union {
    dispatch @4 :D.Dispatch;
    combine @5 :D.Combine;
    nack @6 :D.Nack;
    submit @7 :G.Submit;
    tokens @8 :G.Tokens;
    done @9 :G.Done;
    cancel @10 :G.Cancel;
    register @11 :C.Register;
    ack @12 :C.Ack;
    heartbeat @13 :C.Heartbeat;
    placement @14 :C.Placement;
    prepare @15 :C.Prepare;
    prepared @16 :C.Prepared;
    retire @17 :C.Retire;
    switched @18 :C.Switched;
    report @19 :C.Report;
    drain @20 :C.Drain;
    hello @21 :C.Hello;
    snapshotOffer @22 :G.SnapshotOffer;
    snapshotChunk @23 :G.SnapshotChunk;
    snapshotReply @24 :G.SnapshotReply;
    snapshotDrop @25 :G.SnapshotDrop;
  }

  trace @26 :TraceContext; # must stay the last pointer: encode() leaves it out of untraced messages
}
