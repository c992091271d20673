// A mesh whose links are encrypted: services started by hand over TCP with a key answer with the
// same bits as a plain mesh, and workers without the key get nothing and disturb nobody.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <filesystem>
#include <fstream>

#include "cli/child.hpp"
#include "cli/http_client.hpp"
#include "cli/supervision.hpp"
#include "tests/integration/api.hpp"
#include "tests/integration/mesh.hpp"

namespace fulgur::integration {
namespace {

using nlohmann::json;
using Arguments = std::vector<std::string>;

std::string local(std::uint16_t port) { return "127.0.0.1:" + std::to_string(port); }

/// A fresh key, made as an operator makes it.
std::string new_key() {
  const std::string folder = scratch_path("keys");
  const Finished made = run_program(program("fulgur"), {"keygen", "--out", folder});
  EXPECT_EQ(made.exit_code, 0) << made.output;
  return folder + "/curve.key";
}

/// One service with its admin address; killed at the end.
class Process {
 public:
  Process(const std::string& kind, Arguments arguments) : admin_(local(cli::free_port())) {
    const Arguments common = {"--model", tiny_model(), "--admin", admin_};
    arguments.insert(arguments.end(), common.begin(), common.end());
    log_ = scratch_path(kind);
    const auto pid = cli::spawn(program("fulgur-" + kind), arguments, log_);
    EXPECT_TRUE(pid.is_ok()) << pid.status().message();
    pid_ = pid.is_ok() ? *pid : 0;
  }
  ~Process() {
    if (pid_ == 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  const std::string& admin() const { return admin_; }
  bool runs() const { return waitpid(pid_, nullptr, WNOHANG) == 0; }
  bool ready() const {
    cli::HttpClient client("http://" + admin_);
    const auto answer = client.get("/readyz", kSecond);
    return answer.is_ok() && answer->status == 200;
  }
  /// Whether its log has a line with `text`.
  bool said(const std::string& text) const {
    std::ifstream log(log_);
    for (std::string line; std::getline(log, line);)
      if (line.find(text) != std::string::npos) return true;
    return false;
  }

 private:
  std::string admin_;
  std::string log_;
  pid_t pid_ = 0;
};

/// Two workers, a shard, a router and an orchestrator over TCP, as docs/operations.md starts them.
class TcpMesh {
 public:
  explicit TcpMesh(const std::string& key)
      : control_(cli::free_port()),
        api_(cli::free_port()),
        orchestrator_("orchestrator", {"--listen", "tcp://" + local(control_), "--expect-experts",
                                       "2", "--curve-key-file", key}),
        expert_0_("expert", member("expert-0", key)),
        expert_1_("expert", member("expert-1", key)),
        attention_("attention", member("attention-0", key)),
        router_("router",
                {"--name", "router-0", "--orchestrator", "tcp://" + local(control_), "--transport",
                 "zmq", "--port", std::to_string(api_), "--curve-key-file", key}) {}

  /// Flags of a worker or shard with the key file `key`; empty: without one.
  Arguments member(const std::string& name, const std::string& key) const {
    Arguments flags = {"--name",         name,
                       "--listen",       "tcp://" + local(cli::free_port()),
                       "--orchestrator", "tcp://" + local(control_),
                       "--transport",    "zmq"};
    if (!key.empty()) flags.insert(flags.end(), {"--curve-key-file", key});
    return flags;
  }
  bool ready() const { return router_.ready() && orchestrator_.ready(); }
  std::string url() const { return "http://" + local(api_); }
  double refused() const {
    return metric(orchestrator_.admin(), "fulgur_transport_refused_peers_total");
  }
  /// Names of all members that the orchestrator knows.
  std::vector<std::string> members() const {
    cli::HttpClient client("http://" + orchestrator_.admin());
    const auto answer = client.get("/v1/mesh", 5 * kSecond);
    std::vector<std::string> names;
    if (!answer.is_ok()) return names;
    const json mesh = json::parse(answer->body);
    for (const json& service : mesh["services"]) names.push_back(service["name"]);
    return names;
  }

 private:
  std::uint16_t control_;
  std::uint16_t api_;
  Process orchestrator_;
  Process expert_0_;
  Process expert_1_;
  Process attention_;
  Process router_;
};

TEST(Curve, AMeshWithKeysAnswersAlikeAndStrangersStayOut) {
  const auto requests = mixed_requests(8, 16);
  std::vector<Answer> expected;
  {
    Mesh plain({1, 1, "zmq", "bf16"});
    const Status started = plain.start();
    ASSERT_TRUE(started.is_ok()) << started.message();
    expected = one_by_one(plain.url(), requests);
  }
  const TcpMesh mesh(new_key());
  ASSERT_TRUE(eventually([&] { return mesh.ready(); }));
  expect_equal(at_once(mesh.url(), requests, true), expected);
  const auto members = mesh.members();
  EXPECT_EQ(mesh.refused(), 0);

  const Process keyless("expert", mesh.member("stranger-0", ""));
  ASSERT_TRUE(eventually([&] { return mesh.refused() >= 2; })) << mesh.refused();
  EXPECT_TRUE(eventually([&] { return keyless.said("--curve-key-file"); }));
  const double refused = mesh.refused();
  const Process foreign("expert", mesh.member("stranger-1", new_key()));
  ASSERT_TRUE(eventually([&] { return foreign.said("other keys?"); }));
  EXPECT_TRUE(eventually([&] { return mesh.refused() >= refused + 2; }));
  expect_equal(at_once(mesh.url(), requests, true), expected);
  for (const Process* stranger : {&keyless, &foreign}) {
    EXPECT_TRUE(stranger->runs());
    EXPECT_FALSE(stranger->ready());
  }
  EXPECT_EQ(mesh.members(), members);
}

TEST(Curve, UpMakesAKeyOfItsOwn) {
  const auto requests = mixed_requests(4, 12);
  Mesh plain({1, 1, "zmq", "bf16"});
  Mesh mesh({2, 1, "auto", "bf16", true});
  for (Mesh* const one : {&plain, &mesh}) {
    const Status started = one->start();
    ASSERT_TRUE(started.is_ok()) << started.message();
  }
  struct stat info {};
  ASSERT_EQ(stat((mesh.dir().path() + "/curve.key").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600U);
  expect_equal(at_once(mesh.url(), requests, true), one_by_one(plain.url(), requests));
  EXPECT_EQ(mesh.stop(), 0);
  EXPECT_FALSE(std::filesystem::exists(mesh.dir().path()));
}

}  // namespace
}  // namespace fulgur::integration
