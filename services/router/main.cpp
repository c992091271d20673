// fulgur-router: the front door of a mesh. One thread for HTTP, one or more that check and tokenise
// requests, and this one, which runs the reactor with all sessions.
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>

#include "common/base/log.hpp"
#include "common/base/memory.hpp"
#include "common/service/reactor_metrics.hpp"
#include "common/service/service.hpp"
#include "common/transport/make_transport.hpp"
#include "services/router/options.hpp"

namespace fulgur::router {
namespace {

void pin(const std::vector<int>& cpus) {
  if (cpus.empty()) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : cpus) CPU_SET(cpu, &set);
  if (sched_setaffinity(0, sizeof set, &set) != 0) log::warn("cannot pin to the given cpus");
}

Status run(const Options& options) {
  const RealClock clock;
  std::shared_ptr<const ServedModel> model;
  std::unique_ptr<transport::Transport> transport;
  std::unique_ptr<Service> service;
  std::atomic<Service*> running = nullptr;
  service::SignalWatch signals([&running, &options] {  // ends before what it drains
    Service* const service = running.load();
    if (service == nullptr) _exit(0);  // nobody was served yet
    log::info("draining");
    const Nanoseconds patience = service->failure().is_ok() ? options.drain_timeout : 0;
    if (!service->drain(patience)) log::warn("some requests did not finish in time");
    service->stop();
  });
  FULGUR_ASSIGN_OR_RETURN(model, ServedModel::load(options.model));
  FULGUR_ASSIGN_OR_RETURN(transport,
                          transport::make_transport({wire::ServiceKind::router, options.service.name,
                                                     options.service.incarnation},
                                                    options.transport));
  FULGUR_ASSIGN_OR_RETURN(service, Service::start(options.service, model, *transport, clock));
  service->on_drain_request([] { kill(getpid(), SIGTERM); });
  service::refresh_periodically(
      service->reactor(),
      [&, links = std::make_shared<service::ReactorMetrics>(service->metrics().registry())] {
        links->refresh(service->reactor(), transport->stats());
      });
  log::info("serving api=http://{} model={}", service->endpoint(), model->name());
  running = service.get();
  service->run();
  return service->failure();
}

}  // namespace
}  // namespace fulgur::router

int main(int argc, char** argv) {
  fulgur::tune_allocator();
  fulgur::router::Options options;
  if (const auto code = fulgur::router::parse_options(argc, argv, options)) return *code;
  fulgur::log::init(options.service.name, fulgur::log::parse_level(options.log_level));
  fulgur::router::pin(options.cpus);
  const fulgur::Status ended = fulgur::router::run(options);
  return ended.is_ok() ? 0 : fulgur::service::fail("fulgur-router", ended);
}
