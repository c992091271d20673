// What an operator can get wrong before anything serves: flags, settings, key files, an empty model
// volume. Every program and the image's entry point answer with one line and an exit code, and a
// member that cannot reach its mesh says so in its log and is not ready.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "cli/child.hpp"
#include "cli/http_client.hpp"
#include "cli/supervision.hpp"
#include "tests/integration/mesh.hpp"

namespace fulgur::integration {
namespace {

namespace fs = std::filesystem;
using Arguments = std::vector<std::string>;

Arguments joined(Arguments first, const Arguments& more) {
  first.insert(first.end(), more.begin(), more.end());
  return first;
}

void expect_refused(const Finished& finished, int exit_code, const std::string& what) {
  EXPECT_EQ(finished.exit_code, exit_code) << finished.output;
  EXPECT_EQ(std::count(finished.output.begin(), finished.output.end(), '\n'), 1) << finished.output;
  EXPECT_NE(finished.output.find(what), std::string::npos) << what << ": " << finished.output;
}

std::string file_with(const std::string& text, mode_t mode) {
  const std::string path = scratch_path("file");
  std::ofstream(path) << text;
  chmod(path.c_str(), mode);
  return path;
}

/// Flags with which each program would serve.
Arguments good_flags(const std::string& service, const std::string& model) {
  const Arguments common = {"--model", model, "--admin", "127.0.0.1:0"};
  if (service == "orchestrator") return joined(common, {"--listen", "tcp://127.0.0.1:*"});
  const Arguments member = {"--name", "x", "--orchestrator", "tcp://127.0.0.1:9"};
  if (service == "router") return joined(joined(common, member), {"--port", "0"});
  return joined(joined(common, member), {"--listen", "tcp://127.0.0.1:*"});
}

const Arguments kServices = {"router", "attention", "expert", "orchestrator"};

Finished run_service(const std::string& service, const Arguments& more,
                     const std::string& model = tiny_model()) {
  return run_program(program("fulgur-" + service), joined(good_flags(service, model), more));
}

TEST(BadInput, AModelVolumeThatIsEmptyOrMissing) {
  const std::string empty = scratch_path("empty");
  fs::create_directory(empty);
  for (const std::string& service : kServices) {
    SCOPED_TRACE(service);
    expect_refused(run_service(service, {}, empty), 1, "config.json");
    expect_refused(run_service(service, {}, empty + "-missing"), 1, empty + "-missing");
  }
}

TEST(BadInput, KeyFilesThatCannotBeUsed) {
  const std::string none = scratch_path("none");
  const std::string open = file_with("x\n", 0644);
  const std::string rubbish = file_with("x\n", 0600);
  for (const std::string& service : kServices) {
    SCOPED_TRACE(service);
    expect_refused(run_service(service, {"--curve-key-file", none}), 2, "No such file");
    expect_refused(run_service(service, {"--curve-key-file", open}), 2, "0644");
    expect_refused(run_service(service, {"--curve-key-file", rubbish}), 2, "line 1");
  }
  expect_refused(run_service("router", {"--api-key-file", none}), 2, "No such file");
  expect_refused(run_service("router", {"--api-key-file", "/tmp"}), 2, "Is a directory");
  expect_refused(run_service("router", {"--api-key-file", file_with("", 0600)}), 2, "empty");
}

TEST(BadInput, FlagsOutOfRange) {
  expect_refused(run_service("orchestrator", {"--min-experts", "9", "--max-experts", "8"}), 2,
                 "--min-experts 9 is more than --max-experts 8");
  expect_refused(run_service("orchestrator", {"--busy-target", "70%"}), 2, "--busy-target");
  expect_refused(run_service("attention", {"--activations", "fp8"}), 2, "fp8");
  expect_refused(run_service("attention", {"--kv-tokens", "0"}), 2, "--kv-tokens");
  expect_refused(run_service("expert", {"--threads", "2500m"}), 2, "--threads");
  for (const std::string service : {"router", "attention", "expert"}) {
    SCOPED_TRACE(service);
    for (const std::string bad : {"nonsense", "tcp://host", "tcp://host:0", "ipc://"}) {
      Arguments flags = good_flags(service, tiny_model());
      *(std::find(flags.begin(), flags.end(), "--orchestrator") + 1) = bad;
      expect_refused(run_program(program("fulgur-" + service), flags), 2, "--orchestrator");
    }
  }
}

TEST(BadInput, MembersNeedToKnowTheirMesh) {
  for (const std::string service : {"attention", "expert"})
    for (const std::string missing : {"--listen", "--orchestrator"}) {
      SCOPED_TRACE(service + missing);
      Arguments flags = good_flags(service, tiny_model());
      const auto at = std::find(flags.begin(), flags.end(), missing);
      flags.erase(at, at + 2);
      expect_refused(run_program(program("fulgur-" + service), flags), 2, missing);
    }
}

/// The image's entry point beside the programs, as the image has it.
class EntryPoint : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = scratch_path("bin");
    fs::create_directory(folder_);
    fs::copy(tiny_model() + "/../../deploy/container/entrypoint.sh", folder_ + "/entrypoint");
    for (const std::string& service : kServices)
      fs::create_symlink(program("fulgur-" + service), folder_ + "/fulgur-" + service);
  }
  Finished run(const Arguments& variables, const Arguments& arguments) const {
    const Arguments clean = {"-i", "PATH=/usr/bin:/bin"};
    return run_program(
        "/usr/bin/env",
        joined(joined(joined(clean, variables), {folder_ + "/entrypoint"}), arguments));
  }

 private:
  std::string folder_;
};

TEST_F(EntryPoint, RefusesWhatIsNoServiceAndNoSetting) {
  expect_refused(run({}, {"experts"}), 2, "'experts' is no service");
  expect_refused(run({}, {}), 2, "'' is no service");
  expect_refused(run({"FULGUR_KV_TOKEN=1"}, {"expert", "--help"}), 2,
                 "FULGUR_KV_TOKEN is no setting");
  expect_refused(run({}, {"expert", "--model=$(FULGUR_MODEL)"}), 2,
                 "--model=$(FULGUR_MODEL): that variable is not set");
  expect_refused(run({"FULGUR_MODEL="}, {"expert", "--model="}), 2, "--model=: the value is empty");
  // What a program says comes through, and so does its exit code.
  expect_refused(run({"FULGUR_MODEL=/nowhere"},
                     {"orchestrator", "--model=/nowhere", "--listen=tcp://127.0.0.1:*"}),
                 1, "/nowhere");
}

TEST_F(EntryPoint, TakesKnownSettingsAndKubernetesOwnVariables) {
  const Finished help =
      run({"FULGUR_MODEL=/m", "FULGUR_SHRINK_SECONDS=9", "FULGUR_ROUTER_SERVICE_HOST=10.0.0.1",
           "FULGUR_ROUTER_PORT_80_TCP=tcp://10.0.0.1:80"},
          {"orchestrator", "--help"});
  EXPECT_EQ(help.exit_code, 0) << help.output;
  EXPECT_NE(help.output.find("--replicas"), std::string::npos);
}

/// A member whose orchestrator has no address waits: not ready, and its log says for what.
TEST(BadInput, AnUnreachableOrchestratorIsInTheLog) {
  const std::string log = scratch_path("log");
  const std::string admin = "127.0.0.1:" + std::to_string(cli::free_port());
  Arguments flags = good_flags("expert", tiny_model());
  *(std::find(flags.begin(), flags.end(), "--orchestrator") + 1) = "tcp://nowhere.invalid:7000";
  *(std::find(flags.begin(), flags.end(), "--admin") + 1) = admin;
  const auto pid = cli::spawn(program("fulgur-expert"), flags, log);
  ASSERT_TRUE(pid.is_ok()) << pid.status().message();
  EXPECT_TRUE(eventually([&] {
    std::ifstream file(log);
    const std::string text((std::istreambuf_iterator<char>(file)), {});
    return text.find("connecting to tcp://nowhere.invalid:7000: nobody answers") !=
           std::string::npos;
  }));
  cli::HttpClient client("http://" + admin);
  const auto ready = client.get("/readyz", 5 * kSecond);
  ASSERT_TRUE(ready.is_ok()) << ready.status().message();
  EXPECT_EQ(ready->status, 503);
  kill(*pid, SIGKILL);
  waitpid(*pid, nullptr, 0);
}

}  // namespace
}  // namespace fulgur::integration
