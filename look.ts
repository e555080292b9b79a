import { experiment } from "./src/experiment/run.ts";
for (const name of ["balance", "half", "after", "convert"]) {
  const { reportPath } = await experiment(name, { size: "smoke", data: "/tmp/exp-look/toy.txt", root: "/tmp/exp-look/R", threads: 1, announce: () => {} });
  console.log(name, reportPath, new Date().toISOString());
}
