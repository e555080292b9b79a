// The page of a study: verdict first, then quality against what is pruned, rivals, layers, activations. Look: report/.

import { renderPage } from "../report/page.ts";
import type { StudyResult } from "./result.ts";
import { layersTable, settingsTable, speedsTable, summaryTable } from "./tables.ts";

/** The self-contained HTML page. @param file where study.json lies, for the command that applies it. */
export function studyPage(study: StudyResult, file: string): string {
  return renderPage({
    title: "How sparse are the experts?",
    subtitle: `${study.model.path} on ${study.text.name}`,
    generatedAt: study.createdAt,
    sections: [
      {
        heading: "Result",
        blocks: [
          { kind: "prose", paragraphs: [study.verdict.text], lead: true },
          { kind: "code", title: "Apply it", text: `mone generate ${study.model.path} --neurons ${file}` },
          { kind: "table", table: summaryTable(study) },
        ],
      },
      { heading: "Speed", blocks: [{ kind: "table", table: speedsTable(study) }] },
      { heading: "Activations", blocks: [{ kind: "table", table: layersTable(study) }] },
      { heading: "All settings", blocks: [{ kind: "table", table: settingsTable(study.settings) }] },
    ],
  });
}
