// The metrics every process has: its transport's and its reactor's totals.
#pragma once

#include "common/actor/reactor.hpp"
#include "common/telemetry/metrics.hpp"

namespace fulgur::service {

class ReactorMetrics {
 public:
  explicit ReactorMetrics(telemetry::Metrics& metrics)
      : sent_(metrics.counter("fulgur_transport_messages_sent_total", "Messages sent to peers")),
        received_(
            metrics.counter("fulgur_transport_messages_received_total", "Messages from peers")),
        bytes_sent_(metrics.counter("fulgur_transport_sent_bytes_total", "Bytes sent to peers")),
        bytes_received_(
            metrics.counter("fulgur_transport_received_bytes_total", "Bytes from peers")),
        malformed_(metrics.counter("fulgur_malformed_messages_total",
                                   "Messages dropped because they did not decode")),
        unexpected_(metrics.counter("fulgur_unexpected_messages_total",
                                    "Well-formed messages of a kind this service does not take")),
        busy_(metrics.counter("fulgur_transport_refused_busy_total",
                              "Sends refused because a bounded queue was full")),
        strangers_(metrics.counter(
            "fulgur_transport_refused_peers_total",
            "Connections refused in the handshake: no key of this mesh, or no ZeroMQ")) {}

  /// Reactor thread.
  void refresh(const actor::Reactor& reactor, const transport::Stats& stats) {
    sent_.set(stats.messages_sent);
    received_.set(stats.messages_received);
    bytes_sent_.set(stats.bytes_sent);
    bytes_received_.set(stats.bytes_received);
    malformed_.set(stats.malformed + reactor.malformed());
    unexpected_.set(reactor.unexpected());
    busy_.set(stats.refused_busy);
    strangers_.set(stats.refused_peers);
  }

 private:
  telemetry::MirroredCounter sent_;
  telemetry::MirroredCounter received_;
  telemetry::MirroredCounter bytes_sent_;
  telemetry::MirroredCounter bytes_received_;
  telemetry::MirroredCounter malformed_;
  telemetry::MirroredCounter unexpected_;
  telemetry::MirroredCounter busy_;
  telemetry::MirroredCounter strangers_;
};

}  // namespace fulgur::service
